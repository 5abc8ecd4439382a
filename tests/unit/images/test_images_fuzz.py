"""Malformed files by the thousand: an image or an InputError comes out, nothing else, with bounded memory.

`LMDYNO_FUZZ_CASES=200000 pytest --timeout 0 tests/unit/images/test_images_fuzz.py` for a long run.
"""

import os
import resource
import sys
import warnings
from collections import Counter
from io import BytesIO
from itertools import islice

import pytest
from PIL import Image

from core.errors import InputError
from core.images.sanitise import Limits, sanitise
from tests.unit.images.image_files import good_files, mutations

CASES = int(os.environ.get("LMDYNO_FUZZ_CASES", "4000"))
LIMITS = Limits(max_pixels=200_000)
KNOWN_CODES = {
    "image-empty",
    "image-type",
    "image-damaged",
    "image-animated",
    "image-too-many-pixels",
    "image-too-small",
    "image-too-narrow",
    "image-too-complex",
}
_RSS_UNIT = 1 if sys.platform == "darwin" else 1024


def peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _RSS_UNIT


@pytest.mark.parametrize(("warnings_are", "seed"), [("default", 1), ("error", 2)])
def test_malformed_files_end_in_an_image_or_a_refusal(warnings_are, seed, record_property):
    for data in good_files().values():  # loads the decoders
        outcome(data)
    before_bytes = peak_bytes()
    seen = Counter()
    with warnings.catch_warnings():
        warnings.simplefilter(warnings_are)
        for number, (name, data) in enumerate(islice(mutations(seed), CASES // 2)):
            try:
                seen[outcome(data)] += 1
            except Exception as exc:
                raise AssertionError(f"case {number}, made of {name}: {data.hex()}") from exc
    assert set(seen) <= KNOWN_CODES | {"taken"}
    # Both doors are tried in earnest.
    assert seen["taken"] > CASES // 20
    assert seen["image-damaged"] > CASES // 20
    assert peak_bytes() - before_bytes < 200 * 2**20
    record_property("outcomes", dict(seen))


def outcome(data: bytes) -> str:
    try:
        taken = sanitise(data, limits=LIMITS)
    except InputError as exc:
        return exc.code
    with Image.open(BytesIO(taken.data), formats=("PNG", "JPEG")) as again:
        again.load()
        assert again.size == (taken.image.width_px, taken.image.height_px)
        assert again.mode == "RGB"
        assert again.width * again.height <= LIMITS.max_pixels
    return "taken"
