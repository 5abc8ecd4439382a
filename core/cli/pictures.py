"""Pictures named on the command line: taken in like any other, and what each lane's model sees of them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from core.domain.pictures import MAX_PICTURES, Picture
from core.domain.specs import LaneSpec
from core.errors import InputError
from core.models.vision.context import picture_cost
from core.pictures.intake import Limits, take_in
from core.pictures.shelf import Shelf
from core.settings import Settings
from core.units import count


def taken_in(settings: Settings, files: Sequence[Path]) -> tuple[Picture, ...]:
    """The pictures in these files, now on the shelf.

    Raises InputError for a file that is none or can't be read, StoreError where the shelf can't be written.
    """
    if len(files) > MAX_PICTURES:
        raise InputError(
            f"{len(files)} pictures are too many", hint=f"A question may have {MAX_PICTURES} of them."
        )
    return kept(settings, files)


def kept(settings: Settings, files: Sequence[Path]) -> tuple[Picture, ...]:
    """Like `taken_in`, but any number of files."""
    shelf = Shelf(settings.pictures_dir)
    # All are checked before any is kept.
    checked = [take_in(_read(file), name=file.name) for file in files]
    return tuple(shelf.put(picture) for picture in checked)


def facts(pictures: Sequence[Picture], lanes: Sequence[LaneSpec]) -> list[dict[str, Any]]:
    """For JSON output; what a lane's model sees is None where its arithmetic is not known."""
    return [
        {
            "name": picture.name,
            "sha256": picture.sha256,
            "width_px": picture.width_px,
            "height_px": picture.height_px,
            "lanes": {lane.name: picture_cost(lane, picture) for lane in lanes},
        }
        for picture in pictures
    ]


def lines(pictures: Sequence[Picture], lanes: Sequence[LaneSpec]) -> list[str]:
    """For a person: a line a picture and, below it, one for each lane of which it is known what it sees."""
    told = []
    for picture in pictures:
        told.append(f"{picture.name}: {picture.width_px} × {picture.height_px} px")
        told += [
            f"  {lane.name}: {count(cost.tokens)} tokens at {cost.width_px} × {cost.height_px} px"
            for lane in lanes
            if (cost := picture_cost(lane, picture))
        ]
    return told


def _read(file: Path) -> bytes:
    try:
        with file.expanduser().open("rb") as stream:
            # One byte more than is taken tells a file that is too large from one that just fits.
            return stream.read(Limits().max_bytes + 1)
    except OSError as exc:
        raise InputError(
            f"{file} can't be read: {exc.strerror}", hint="Check the path and its permissions."
        ) from exc
