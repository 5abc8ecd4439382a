"""Scenes: what stands where. Coordinates and sizes are shares of the picture's sides, y downwards."""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from scenes.vocabulary import (
    BACKGROUNDS,
    COLORS,
    HELD_OUT_WORDS,
    MAX_DIGITS,
    MAX_THINGS,
    PLACES,
    SHAPES,
    SIZES,
    WORDS,
    is_held_out_number,
    is_held_out_pair,
)

PLACE_MARGIN = 0.035
"""Nearer than this to a border between two thirds, a place has no clear name."""

_CONTRAST = 95.0
"""Least Euclidean RGB distance between a thing and the background."""
_JITTER = 12
_GAP = 0.02
_TRIES = 60

Rgb = tuple[int, int, int]


class Split(StrEnum):
    TRAIN = "train"
    """No held-out pair of colour and shape, word or number."""
    HELD_OUT = "held-out"
    """One of them in every scene, as far as colours that show on the background allow."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Thing:
    """A shape, or a written word or number (`shape` is then "word" or "number" and `text` says which)."""

    shape: str
    color: str
    rgb: Rgb
    x: float
    y: float
    half_width: float
    half_height: float
    angle: float
    """Degrees anticlockwise."""
    size: str = ""
    """One of SIZES; empty for texts."""
    text: str = ""

    @property
    def is_text(self) -> bool:
        return bool(self.text)

    @property
    def place(self) -> str:
        return PLACES[3 * _third(self.y) + _third(self.x)]

    @property
    def has_clear_place(self) -> bool:
        return all(abs(at - border) > PLACE_MARGIN for at in (self.x, self.y) for border in (1 / 3, 2 / 3))


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    things: tuple[Thing, ...]
    background: str
    background_rgb: Rgb
    gradient: int
    """How much brighter the bottom is than the top, in steps of 255; negative for darker."""
    noise: float
    """Standard deviation of the noise, in steps of 255."""
    font: int
    """Which of the fonts at hand; 0 is Pillow's own."""
    seed: int
    """For the noise."""

    @property
    def shapes(self) -> tuple[Thing, ...]:
        return tuple(thing for thing in self.things if not thing.is_text)

    @property
    def texts(self) -> tuple[Thing, ...]:
        return tuple(thing for thing in self.things if thing.is_text)


def random_scene(rng: random.Random, split: Split, *, fonts: int = 1) -> Scene:
    """A scene of the split. `fonts` is how many fonts the drawer may choose from."""
    background = rng.choice(tuple(BACKGROUNDS))
    rgb = _jittered(rng, rng.choice(BACKGROUNDS[background]), 3)
    with_text = rng.random()
    count = 0 if with_text < 0.10 else _count(rng)
    things: list[Thing] = []
    if with_text < 0.35:
        things.append(_text(rng, split, rgb, alone=count == 0))
        count = min(count, MAX_THINGS - 2)
    kinds = _kinds(rng, split, rgb, count)
    on_grid = rng.random() < 0.65
    for shape, color in kinds:
        if thing := _placed(rng, shape, color, things, on_grid=on_grid, crowd=count):
            things.append(thing)
    return Scene(
        things=tuple(things),
        background=background,
        background_rgb=rgb,
        gradient=rng.choice((0, 0, 0, rng.randint(-16, 16))),
        noise=rng.choice((0.0, 0.0, rng.uniform(1.0, 7.0))),
        font=rng.randrange(fonts),
        seed=rng.getrandbits(32),
    )


def name_pairs(things: Sequence[Thing]) -> set[tuple[str, str]]:
    return {(thing.color, thing.shape) for thing in things if not thing.is_text}


def _third(at: float) -> int:
    return min(2, int(at * 3))


def _count(rng: random.Random) -> int:
    return rng.choices(range(1, MAX_THINGS + 1), (20, 20, 20, 18, 16, 6))[0]


def _kinds(rng: random.Random, split: Split, background: Rgb, count: int) -> list[tuple[str, str]]:
    """Shape and colour of each thing; often alike in one or both, so that counting has something to count."""
    pairs = [
        (shape, color)
        for shape in SHAPES
        for color in COLORS
        if _contrast(COLORS[color], background) >= _CONTRAST
        and (split is Split.HELD_OUT or not is_held_out_pair(color, shape))
    ]
    unseen = [pair for pair in pairs if is_held_out_pair(pair[1], pair[0])]
    kinds: list[tuple[str, str]] = []
    alike = rng.random()
    for number in range(count):
        if number == 0 and unseen:
            kinds.append(rng.choice(unseen))
            continue
        choice = pairs
        if kinds and alike < 0.55 and rng.random() < 0.7:
            shape, color = rng.choice(kinds)
            if alike < 0.20:
                choice = [(shape, color)]
            elif alike < 0.40:
                choice = [pair for pair in pairs if pair[0] == shape]
            else:
                choice = [pair for pair in pairs if pair[1] == color]
        kinds.append(rng.choice(choice))
    return kinds


def _placed(
    rng: random.Random, shape: str, color: str, others: Sequence[Thing], *, on_grid: bool, crowd: int
) -> Thing | None:
    """The thing at a free place; None if none is found."""
    weights = (5, 4, 1) if crowd > 4 else (3, 4, 3)
    for attempt in range(_TRIES):
        size = "small" if attempt > _TRIES // 2 else rng.choices(tuple(SIZES), weights)[0]
        radius = rng.uniform(*SIZES[size])
        if on_grid:
            x = (rng.randrange(3) + 0.5) / 3 + rng.uniform(-0.08, 0.08)
            y = (rng.randrange(3) + 0.5) / 3 + rng.uniform(-0.08, 0.08)
        else:
            x, y = rng.random(), rng.random()
        edge = radius + 0.015
        x, y = min(max(x, edge), 1 - edge), min(max(y, edge), 1 - edge)
        thing = Thing(
            shape=shape,
            color=color,
            rgb=_jittered(rng, COLORS[color], _JITTER),
            x=x,
            y=y,
            half_width=radius,
            half_height=radius,
            angle=rng.uniform(-14, 14),
            size=size,
        )
        if not any(_overlap(thing, other) for other in others):
            return thing
    return None


def _text(rng: random.Random, split: Split, background: Rgb, *, alone: bool) -> Thing:
    word = rng.random() < 0.5
    if word:
        words = [text for text in WORDS if (text in HELD_OUT_WORDS) == (split is Split.HELD_OUT)]
        text = rng.choice(words)
        shown = text.upper() if rng.random() < 0.5 else text
    else:
        shown = _number(rng, split)
    most = 0.42 if alone else 0.30
    per_letter = rng.uniform(0.075, 0.11) * (1.5 if alone else 1.0)
    half_width = min(most, per_letter * len(shown) * 0.5 + 0.02)
    half_height = min(0.17, half_width / len(shown) * 1.9)
    colors = [name for name, rgb in COLORS.items() if _contrast(rgb, background) >= _CONTRAST * 1.3]
    color = rng.choice(colors)
    return Thing(
        shape="word" if word else "number",
        color=color,
        rgb=_jittered(rng, COLORS[color], _JITTER),
        x=_within(rng, half_width + 0.02),
        y=_within(rng, half_height + 0.02),
        half_width=half_width,
        half_height=half_height,
        angle=rng.uniform(-7, 7),
        text=shown,
    )


def _number(rng: random.Random, split: Split) -> str:
    while True:
        digits = rng.choices(range(1, MAX_DIGITS + 1), (3, 4, 3))[0]
        text = str(rng.randrange(10 ** (digits - 1) if digits > 1 else 0, 10**digits))
        if len(text) == 1 or is_held_out_number(text) == (split is Split.HELD_OUT):
            return text


def _within(rng: random.Random, edge: float) -> float:
    return rng.uniform(edge, 1 - edge)


def _overlap(one: Thing, other: Thing) -> bool:
    apart_x = abs(one.x - other.x) - one.half_width - other.half_width
    apart_y = abs(one.y - other.y) - one.half_height - other.half_height
    if one.is_text or other.is_text:
        return apart_x < _GAP and apart_y < _GAP
    reach = one.half_width + other.half_width + _GAP
    return math.hypot(one.x - other.x, one.y - other.y) < reach


def _contrast(one: Rgb, other: Rgb) -> float:
    return math.dist(one, other)


def _jittered(rng: random.Random, rgb: Rgb, by: int) -> Rgb:
    red, green, blue = (min(255, max(0, part + rng.randint(-by, by))) for part in rgb)
    return red, green, blue
