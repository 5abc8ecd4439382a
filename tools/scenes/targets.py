"""What each patch of a picture shows, as class numbers: the vision tower's lessons before it meets language.

A patch learns not only what covers it, but what questions about that thing will ask: how many are like it,
what stands beside it, what the text says. The language model then only has to look it up.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from scenes.drawing import outline
from scenes.scene import Scene, Thing
from scenes.vocabulary import (
    BACKGROUND_NAMES,
    COLOR_NAMES,
    GLYPHS,
    MAX_THINGS,
    MAX_WORD,
    PLACES,
    SHAPES,
    SIZE_NAMES,
)

FORMS = (*SHAPES, "word", "number")
ROWS = MAX_THINGS + 2
"""Row 0 is the background's; the others are the things in their order."""

_FINE = 4
_COVERED = 3 / _FINE**2
_BESIDE = 0.11

_COUNTS = MAX_THINGS + 1
_NEIGHBOUR = {"form": len(FORMS) + 1, "color": len(COLOR_NAMES) + 1}
THING_FIELDS: dict[str, int] = {
    "form": len(FORMS) + 1,
    "color": len(COLOR_NAMES) + 1,
    "size": len(SIZE_NAMES) + 1,
    "place": len(PLACES),
    "same_form": _COUNTS,
    "same_color": _COUNTS,
    "same_both": _COUNTS,
    "rank": 4,
    **{f"{side}_{what}": n for side in ("left", "right", "above", "below") for what, n in _NEIGHBOUR.items()},
    **{f"glyph{at}": len(GLYPHS) + 1 for at in range(MAX_WORD)},
}
"""Classes of each fact about a thing; 0 is "none" where there may be none. `rank`: 1 largest, 2 smallest."""

SCENE_FIELDS: dict[str, int] = {
    "shapes": _COUNTS,
    "background": len(BACKGROUND_NAMES),
    **{f"count_{name}": _COUNTS for name in (*SHAPES, *COLOR_NAMES)},
}
"""Classes of each fact about the whole scene, to be known everywhere."""


@dataclass(frozen=True, slots=True)
class Targets:
    thing: NDArray[np.uint8]
    """(patches,) the row of what covers the patch."""
    glyph: NDArray[np.uint8]
    """(patches,) the letter or digit on the patch, 0 for none."""
    facts: NDArray[np.uint8]
    """(ROWS, THING_FIELDS)."""
    scene: NDArray[np.uint8]
    """(SCENE_FIELDS,)."""


def targets(scene: Scene, patches_a_side: int) -> Targets:
    facts = np.zeros((ROWS, len(THING_FIELDS)), np.uint8)
    for row, thing in enumerate(scene.things, start=1):
        facts[row] = list(_facts(thing, scene).values())
    thing_map, glyph_map = _maps(scene, patches_a_side)
    return Targets(thing_map, glyph_map, facts, np.array(_scene_facts(scene), np.uint8))


def _facts(thing: Thing, scene: Scene) -> dict[str, int]:
    alike = [other for other in scene.things if other.is_text == thing.is_text]
    facts = {
        "form": FORMS.index(thing.shape) + 1,
        "color": COLOR_NAMES.index(thing.color) + 1,
        "size": SIZE_NAMES.index(thing.size) + 1 if thing.size else 0,
        "place": PLACES.index(thing.place),
        "same_form": sum(other.shape == thing.shape for other in alike),
        "same_color": sum(other.color == thing.color for other in alike),
        "same_both": sum((other.shape, other.color) == (thing.shape, thing.color) for other in alike),
        "rank": _rank(thing, scene),
    }
    for side, axis, sign in (("left", 0, -1), ("right", 0, 1), ("above", 1, -1), ("below", 1, 1)):
        beside = _nearest(thing, scene, axis, sign)
        facts[f"{side}_form"] = FORMS.index(beside.shape) + 1 if beside else 0
        facts[f"{side}_color"] = COLOR_NAMES.index(beside.color) + 1 if beside else 0
    letters = thing.text.lower().ljust(MAX_WORD)
    for at in range(MAX_WORD):
        facts[f"glyph{at}"] = GLYPHS.find(letters[at]) + 1
    return facts


def _rank(thing: Thing, scene: Scene) -> int:
    others = [other.half_width for other in scene.shapes if other is not thing]
    if thing.is_text or not others:
        return 0
    return 1 if thing.half_width > max(others) else 2 if thing.half_width < min(others) else 3


def _nearest(thing: Thing, scene: Scene, axis: int, sign: int) -> Thing | None:
    def away(other: Thing) -> tuple[float, float]:
        return other.x - thing.x, other.y - thing.y

    beside = [other for other in scene.things if sign * away(other)[axis] > _BESIDE]
    return min(beside, key=lambda other: sum(part**2 for part in away(other)), default=None)


def _scene_facts(scene: Scene) -> list[int]:
    shapes = scene.shapes
    counts = [sum(thing.shape == name for thing in shapes) for name in SHAPES]
    counts += [sum(thing.color == name for thing in shapes) for name in COLOR_NAMES]
    return [len(shapes), BACKGROUND_NAMES.index(scene.background), *counts]


def _maps(scene: Scene, side: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Which row and which glyph covers each patch most, where anything covers a good part of it."""
    fine = side * _FINE
    things, glyphs = Image.new("L", (fine, fine)), Image.new("L", (fine, fine))
    thing_pen, glyph_pen = ImageDraw.Draw(things), ImageDraw.Draw(glyphs)
    for row, thing in enumerate(scene.things, start=1):
        if not thing.is_text:
            thing_pen.polygon([(x * fine - 0.5, y * fine - 0.5) for x, y in outline(thing)], fill=row)
            continue
        left, right = (thing.x - thing.half_width) * fine, (thing.x + thing.half_width) * fine
        top, bottom = (thing.y - thing.half_height) * fine, (thing.y + thing.half_height) * fine
        thing_pen.rectangle((left, top, right - 1, bottom - 1), fill=row)
        step = (right - left) / len(thing.text)
        for at, letter in enumerate(thing.text.lower()):
            box = (left + at * step, top, left + (at + 1) * step - 1, bottom - 1)
            glyph_pen.rectangle(box, fill=GLYPHS.index(letter) + 1)
    return _most(np.asarray(things), side, ROWS), _most(np.asarray(glyphs), side, len(GLYPHS) + 1)


def _most(fine: NDArray[np.uint8], side: int, classes: int) -> NDArray[np.uint8]:
    """The most frequent class but 0 of each patch; 0 where it covers too little."""
    cells = fine.reshape(side, _FINE, side, _FINE).swapaxes(1, 2).reshape(side * side, _FINE**2)
    one_hot = cells[:, :, None] == np.arange(1, classes, dtype=np.uint8)
    share = one_hot.mean(axis=1)
    best = share.argmax(axis=1)
    covered = np.take_along_axis(share, best[:, None], 1)[:, 0] >= _COVERED
    return np.where(covered, best + 1, 0).astype(np.uint8)
