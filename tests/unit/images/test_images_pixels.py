"""Versions of an image: all different, all the same but for a corner, all readable."""

import pytest
from PIL import ImageChops

from core.images.pixels import Variants
from core.images.sanitise import sanitise
from tests.unit.images.image_files import colourful, encoded, four_corners, opened

SIZES = [(8, 8), (64, 32), (9, 17), (50, 64), (200, 150), (33, 71), (8, 300)]
"""One row of blocks, whole rows, rows that are cut short, and more rows than there are restart markers."""


def a_image(size):
    return sanitise(encoded(colourful(*size), "JPEG", quality=95)).data


def difference(one, other):
    return ImageChops.difference(opened(one).convert("RGB"), opened(other).convert("RGB"))


@pytest.mark.parametrize("size", SIZES)
def test_versions_differ_in_the_lower_right_corner_only(size):
    variants = Variants(a_image(size))
    left, top, right, bottom = difference(variants.make("one"), variants.make("two")).getbbox()
    assert (right, bottom) == size
    assert top >= (size[1] - 1) // 8 * 8
    # Where the last row is low the noise is wider; the rest of its blocks shows a trace of it.
    assert right - left <= 64 // (size[1] - top) + 8


@pytest.mark.parametrize("size", SIZES)
def test_all_else_is_the_image(size):
    data = a_image(size)
    changed = difference(data, Variants(data).make("one"))
    changed.paste((0, 0, 0), (max(0, size[0] - 72), (size[1] - 1) // 8 * 8, *size))
    assert max(high for _, high in changed.getextrema()) <= 8  # encoded a second time


def test_a_seed_always_gives_the_same_version_and_every_seed_another():
    variants = Variants(a_image((64, 48)))
    made = [variants.make(f"run/{number}") for number in range(200)]
    assert len(set(made)) == 200
    assert len({opened(each).tobytes() for each in made}) == 200
    assert variants.make("run/7") == made[7]


def test_a_drawing_becomes_a_jpeg():
    data = sanitise(encoded(four_corners(), "PNG")).data
    version = Variants(data).make("one")
    assert opened(data).format == "PNG"
    assert (opened(version).format, opened(version).size) == ("JPEG", (64, 32))


def test_a_version_is_accepted_at_the_door():
    taken = sanitise(Variants(a_image((200, 150))).make("one"))
    assert (taken.image.media_type, taken.image.width_px) == ("image/jpeg", 200)
