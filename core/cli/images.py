"""Images named on the command line: taken in like any other, and what each lane's model sees of them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from core.domain.conversation import MAX_IMAGES, StoredImage
from core.domain.specs import LaneSpec
from core.errors import InputError
from core.i18n import N_, _
from core.images.sanitise import Limits, sanitise
from core.images.store import ImageStore
from core.models.context import image_cost
from core.settings import Settings
from core.units import count


def taken_in(settings: Settings, files: Sequence[Path]) -> tuple[StoredImage, ...]:
    """The images in these files, now in the image store.

    Raises InputError for a file that is none or can't be read, StoreError where the image store can't be
    written.
    """
    if len(files) > MAX_IMAGES:
        raise InputError(
            N_("Too many images ({n}).", n=len(files)),
            hint=N_("Choose at most {most} images per question.", most=MAX_IMAGES),
        )
    return kept(settings, files)


def kept(settings: Settings, files: Sequence[Path]) -> tuple[StoredImage, ...]:
    """Like `taken_in`, but any number of files."""
    image_store = ImageStore(settings.images_dir)
    # All are checked before any is kept.
    checked = [sanitise(_read(file), name=file.name) for file in files]
    return tuple(image_store.put(image) for image in checked)


def facts(images: Sequence[StoredImage], lanes: Sequence[LaneSpec]) -> list[dict[str, Any]]:
    """For JSON output; what a lane's model sees is None where its arithmetic is not known."""
    return [
        {
            "name": image.name,
            "sha256": image.sha256,
            "width_px": image.width_px,
            "height_px": image.height_px,
            "lanes": {lane.name: image_cost(lane, image) for lane in lanes},
        }
        for image in images
    ]


def lines(images: Sequence[StoredImage], lanes: Sequence[LaneSpec]) -> list[str]:
    """For a person: a line an image and, below it, one for each lane of which it is known what it sees."""
    texts = []
    for image in images:
        texts.append(f"{image.name}: {image.width_px} × {image.height_px} px")
        texts += [
            "  "
            + _(
                "{lane}: {tokens} tokens at {width} × {height} px",
                lane=lane.name,
                tokens=count(cost.tokens),
                width=cost.width_px,
                height=cost.height_px,
            )
            for lane in lanes
            if (cost := image_cost(lane, image))
        ]
    return texts


def _read(file: Path) -> bytes:
    try:
        with file.expanduser().open("rb") as stream:
            # One byte more than is taken tells a file that is too large from one that just fits.
            return stream.read(Limits().max_bytes + 1)
    except OSError as exc:
        raise InputError(
            N_("{file} can't be read: {reason}", file=file, reason=exc.strerror),
            hint=N_("Check the path and its permissions."),
        ) from exc
