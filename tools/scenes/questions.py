"""Questions about a scene, with the answers that are right.

Only what is clear is asked: no place near a border between two thirds, no "the star" where there are two.
In training nothing is asked about held-out pairs, not even whether there is one.
"""

import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from scenes.scene import Scene, Split, Thing, name_pairs
from scenes.vocabulary import COLOR_NAMES, PLACES, SHAPES, is_held_out_pair

_CLEARLY = 0.11
"""Least distance of two centres along an axis to call one left of or above the other."""


class Kind(StrEnum):
    """What a question asks for; accuracy is reported by kind."""

    COLOR = "color"
    SHAPE = "shape"
    POSITION = "position"
    COUNT = "count"
    YES_NO = "yes-no"
    RELATION = "relation"
    SIZE = "size"
    WORD = "word"
    NUMBER = "number"
    BACKGROUND = "background"
    ABSENT = "absent"
    DESCRIPTION = "description"


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    kind: Kind
    text: str
    answer: str
    """As the model learns to say it."""
    others: tuple[str, ...] = ()
    """Further right answers."""
    about: Thing | None = None
    """What follow-up questions may call "it"."""
    is_follow_up: bool = False

    @property
    def answers(self) -> tuple[str, ...]:
        return (self.answer, *self.others)


@dataclass(frozen=True, slots=True)
class Asking:
    """What questions are made from."""

    scene: Scene
    rng: random.Random
    split: Split


Asker = Callable[[Asking], Iterator[Question]]


def all_questions(scene: Scene, rng: random.Random, split: Split) -> list[Question]:
    """Every question that has a clear answer, one wording of each, in random order."""
    asking = Asking(scene, rng, split)
    questions = [question for asker in _ASKERS for question in asker(asking)]
    rng.shuffle(questions)
    return questions


def dialogue(scene: Scene, rng: random.Random, split: Split, *, turns: int) -> list[Question]:
    """Questions in a row about one picture: kinds mixed, follow-ups where "it" is clear."""
    by_kind: dict[Kind, list[Question]] = {}
    for question in all_questions(scene, rng, split):
        by_kind.setdefault(question.kind, []).append(question)
    asked: list[Question] = []
    while by_kind and len(asked) < turns:
        kinds = list(by_kind)
        kind = rng.choices(kinds, [_WEIGHTS.get(kind, 1.0) for kind in kinds])[0]
        question = by_kind[kind].pop()
        if not by_kind[kind] or kind in _ONCE:
            del by_kind[kind]
        asked.append(question)
        if question.about and rng.random() < 0.35 and len(asked) < turns:
            follow_ups = list(_follow_ups(question, rng))
            if follow_ups:
                asked.append(rng.choice(follow_ups))
    return asked


def phrase(thing: Thing) -> str:
    """Such as red circle, word cat, number 7."""
    return f"{thing.shape} {thing.text.lower()}" if thing.is_text else f"{thing.color} {thing.shape}"


def with_article(thing: Thing) -> str:
    article = "the" if thing.is_text else "an" if thing.color == "orange" else "a"
    return f"{article} {phrase(thing)}"


def description(scene: Scene) -> str:
    """One sentence that names all there is, row by row."""
    rows = sorted(scene.things, key=lambda thing: (PLACES.index(thing.place), thing.x))
    parts = [f"{with_article(thing)} {_at(thing.place)}" for thing in rows]
    listed = parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
    return f"{listed[0].upper()}{listed[1:]} on a {scene.background} background."


def _at(place: str) -> str:
    return f"{'in' if place == 'center' else 'at'} the {place}"


def _unique(things: Sequence[Thing], of: Callable[[Thing], str]) -> list[Thing]:
    count = Counter(of(thing) for thing in things)
    return [thing for thing in things if count[of(thing)] == 1]


def _handle(thing: Thing, scene: Scene, rng: random.Random) -> str | None:
    """How to speak of the thing so that no other is meant; None if its like is there twice."""
    if thing.is_text:
        return thing.shape
    ways = []
    shapes = scene.shapes
    if sum(other.shape == thing.shape for other in shapes) == 1:
        ways.append(thing.shape)
    if sum(other.color == thing.color for other in shapes) == 1 and len(shapes) == len(scene.things):
        ways.append(f"{thing.color} shape")
    if sum(phrase(other) == phrase(thing) for other in shapes) == 1:
        ways.append(phrase(thing))
    return rng.choice(ways) if ways else None


def _plural(shape: str) -> str:
    return "crosses" if shape == "cross" else f"{shape}s"


def _color(asking: Asking) -> Iterator[Question]:
    scene, rng = asking.scene, asking.rng
    for thing in [*_unique(scene.shapes, lambda thing: thing.shape), *scene.texts]:
        text = rng.choice(_COLOR_ASKED).format(thing.shape)
        yield Question(kind=Kind.COLOR, text=text, answer=thing.color, about=thing)
    if len(scene.things) == 1:
        text = rng.choice(("What color is it?", "What color is this?", "Which color do you see?"))
        yield Question(kind=Kind.COLOR, text=text, answer=scene.things[0].color, about=scene.things[0])
    for thing in _alone_in_place(scene):
        text = f"What color is the {'text' if thing.is_text else 'shape'} {_at(thing.place)}?"
        yield Question(kind=Kind.COLOR, text=text, answer=thing.color, about=thing)


_COLOR_ASKED = (
    "What color is the {}?",
    "What colour is the {}?",
    "Which color is the {}?",
    "Which colour does the {} have?",
    "What is the color of the {}?",
    "Tell me the color of the {}.",
)


def _shape(asking: Asking) -> Iterator[Question]:
    scene, rng = asking.scene, asking.rng
    if not scene.texts:
        for thing in _unique(scene.shapes, lambda thing: thing.color):
            text = rng.choice(_SHAPE_ASKED).format(thing.color)
            yield Question(kind=Kind.SHAPE, text=text, answer=thing.shape, about=thing)
    if len(scene.things) == 1 and scene.shapes:
        text = rng.choice(("What shape is this?", "Which shape do you see?", "What shape is in the picture?"))
        yield Question(kind=Kind.SHAPE, text=text, answer=scene.shapes[0].shape, about=scene.shapes[0])
    for thing in _alone_in_place(scene):
        if not thing.is_text:
            text = rng.choice(("What shape is {}?", "Which shape is {}?")).format(_at(thing.place))
            yield Question(kind=Kind.SHAPE, text=text, answer=thing.shape, about=thing)


_SHAPE_ASKED = (
    "What shape is {}?",
    "Which shape is {}?",
    "What is the {} shape?",
    "What shape is the {} thing?",
    "What shape is the {} object?",
)


def _alone_in_place(scene: Scene) -> list[Thing]:
    """Things that can be asked for by their place: clearly there, and nothing else anywhere near it."""
    alone = _unique(scene.things, lambda thing: thing.place)
    return [
        thing
        for thing in alone
        if thing.has_clear_place and all(other is thing or other.has_clear_place for other in scene.things)
    ]


def _position(asking: Asking) -> Iterator[Question]:
    scene, rng = asking.scene, asking.rng
    for thing in scene.things:
        handle = _handle(thing, scene, rng)
        if handle and thing.has_clear_place:
            text = rng.choice(_POSITION_ASKED).format(handle)
            yield Question(
                kind=Kind.POSITION, text=text, answer=thing.place, others=_spellings(thing.place), about=thing
            )


_POSITION_ASKED = (
    "Where is the {}?",
    "Where is the {} in the picture?",
    "In which part of the picture is the {}?",
    "Where do you see the {}?",
    "What is the position of the {}?",
)


def _spellings(place: str) -> tuple[str, ...]:
    if place == "center":
        return ("middle", "centre")
    return (f"{place} center",) if " " not in place else ()


def _count(asking: Asking) -> Iterator[Question]:
    scene, rng = asking.scene, asking.rng
    shapes = scene.shapes
    yield _counted(rng.choice(_ALL_ASKED), len(shapes))
    by_shape = Counter(thing.shape for thing in shapes)
    by_color = Counter(thing.color for thing in shapes)
    by_pair = Counter((thing.color, thing.shape) for thing in shapes)
    counts = [(_plural(shape), count) for shape, count in by_shape.items()]
    counts += [(f"{color} shapes", count) for color, count in by_color.items()]
    counts += [(f"{color} {_plural(shape)}", count) for (color, shape), count in by_pair.items()]
    if rng.random() < 0.35:
        counts.append((_plural(_absentee(rng, SHAPES, by_shape)), 0))
    if rng.random() < 0.35:
        counts.append((f"{_absentee(rng, COLOR_NAMES, by_color)} shapes", 0))
    for what, count in counts:
        if count != 1 or rng.random() < _ASK_FOR_ONE:
            yield _counted(rng.choice(_COUNT_ASKED).format(what), count)


_ALL_ASKED = (
    "How many shapes are there?",
    "How many shapes do you see?",
    "How many shapes are in the picture?",
    "Count the shapes.",
)
_COUNT_ASKED = (
    "How many {} are there?",
    "How many {} do you see?",
    "How many {} are in the picture?",
    "Count the {}.",
)
_ASK_FOR_ONE = 0.35
"""Most kinds are there once; asked each time, "1" would nearly always be right."""
_NUMBER_WORDS = ("zero", "one", "two", "three", "four", "five", "six")


def _counted(text: str, count: int) -> Question:
    return Question(kind=Kind.COUNT, text=text, answer=str(count), others=(_NUMBER_WORDS[count],))


def _absentee(rng: random.Random, names: Sequence[str], there: Counter[str]) -> str:
    return rng.choice([name for name in names if name not in there])


def _yes_no(asking: Asking) -> Iterator[Question]:
    """As many with yes as with no; no to pairs whose colour or shape is there as well."""
    scene, rng = asking.scene, asking.rng
    there = name_pairs(scene.things)
    if not there:
        return
    for color, shape in sorted(there)[:2]:
        yield _whether(rng, f"{color} {shape}", True)
    near = [
        (color, shape)
        for color in COLOR_NAMES
        for shape in SHAPES
        if (color, shape) not in there
        and (color in {c for c, _ in there} or shape in {s for _, s in there})
        and (asking.split is Split.HELD_OUT or not is_held_out_pair(color, shape))
    ]
    for color, shape in rng.sample(near, min(2, len(there))):
        yield _whether(rng, f"{color} {shape}", False)
    yield _whether(rng, rng.choice(sorted(shape for _, shape in there)), True)
    yield _whether(rng, rng.choice([name for name in SHAPES if name not in {s for _, s in there}]), False)
    kind = rng.choice(("word", "number"))
    yield _whether(rng, kind, any(thing.shape == kind for thing in scene.texts))


def _whether(rng: random.Random, what: str, there: bool) -> Question:
    text = rng.choice(("Is there a {}?", "Do you see a {}?", "Is there a {} in the picture?"))
    text = text.format(what).replace("a orange", "an orange")
    return Question(kind=Kind.YES_NO, text=text, answer="yes" if there else "no")


def _relation(asking: Asking) -> Iterator[Question]:
    scene, rng = asking.scene, asking.rng
    for one in scene.things:
        handle = _handle(one, scene, rng)
        if handle is None:
            continue
        for words, axis, sign in _DIRECTIONS:
            beyond = [sign * (_at_axis(other, axis) - _at_axis(one, axis)) for other in scene.things]
            if sum(distance > 0 for distance in beyond) == 1 and max(beyond) > _CLEARLY:
                other = scene.things[beyond.index(max(beyond))]
                text = rng.choice(("What is {} the {}?", "Which thing is {} the {}?")).format(words, handle)
                yield _named(text, other)
        other = rng.choice(scene.things)
        other_handle = _handle(other, scene, rng)
        if other is not one and other_handle:
            words, axis, sign = rng.choice(_DIRECTIONS)
            distance = sign * (_at_axis(one, axis) - _at_axis(other, axis))
            if abs(distance) > _CLEARLY:
                answer = "yes" if distance > 0 else "no"
                yield Question(
                    kind=Kind.RELATION, text=f"Is the {handle} {words} the {other_handle}?", answer=answer
                )


_DIRECTIONS = (
    ("to the left of", "x", -1),
    ("left of", "x", -1),
    ("to the right of", "x", 1),
    ("right of", "x", 1),
    ("above", "y", -1),
    ("below", "y", 1),
)


def _at_axis(thing: Thing, axis: str) -> float:
    return thing.x if axis == "x" else thing.y


def _named(text: str, thing: Thing) -> Question:
    others = (thing.text.lower(),) if thing.is_text else ()
    return Question(kind=Kind.RELATION, text=text, answer=with_article(thing), others=others, about=thing)


def _size(asking: Asking) -> Iterator[Question]:
    scene, rng = asking.scene, asking.rng
    by_size = sorted(scene.shapes, key=lambda thing: thing.half_width)
    for thing in by_size:
        handle = _handle(thing, scene, rng)
        if handle and rng.random() < 0.4:
            text = rng.choice(("What size is the {}?", "How big is the {}?")).format(handle)
            others = {"small": ("little",), "large": ("big",)}.get(thing.size, ())
            yield Question(kind=Kind.SIZE, text=text, answer=thing.size, others=others, about=thing)
    if len(by_size) > 1:
        for words, thing, next_one in (
            ("biggest largest", by_size[-1], by_size[-2]),
            ("smallest", by_size[0], by_size[1]),
        ):
            if thing.size != next_one.size:
                text = f"What is the {rng.choice(words.split())} shape?"
                yield replace(_named(text, thing), kind=Kind.SIZE, others=(thing.shape,))


def _text(asking: Asking) -> Iterator[Question]:
    scene, rng = asking.scene, asking.rng
    for thing in scene.texts:
        kind = Kind.WORD if thing.shape == "word" else Kind.NUMBER
        text = rng.choice(_TEXT_ASKED).format(thing.shape)
        yield Question(kind=kind, text=text, answer=thing.text.lower(), about=thing)


_TEXT_ASKED = (
    "What {} is written?",
    "Which {} do you see?",
    "Read the {}.",
    "What {} is in the picture?",
    "What does the text say?",
    "What is written in the picture?",
)


def _background(asking: Asking) -> Iterator[Question]:
    scene, rng = asking.scene, asking.rng
    text = rng.choice(
        ("What color is the background?", "Which colour is the background?", "On what color is this drawn?")
    )
    others = ("grey",) if scene.background == "gray" else ()
    yield Question(kind=Kind.BACKGROUND, text=text, answer=scene.background, others=others)


def _absent(asking: Asking) -> Iterator[Question]:
    """Asked for what isn't there, the answer says so."""
    scene, rng = asking.scene, asking.rng
    missing = rng.choice([name for name in SHAPES if name not in {thing.shape for thing in scene.shapes}])
    if not scene.texts and rng.random() < 0.3:
        missing = rng.choice(("word", "number"))
    text = rng.choice(("What color is the {}?", "Where is the {}?")).format(missing)
    yield Question(kind=Kind.ABSENT, text=text, answer=f"There is no {missing}.")


def _description(asking: Asking) -> Iterator[Question]:
    scene, rng = asking.scene, asking.rng
    if all(thing.has_clear_place for thing in scene.things):
        text = rng.choice(
            (
                "Describe the picture.",
                "What do you see?",
                "What is in the picture?",
                "Describe what you see.",
                "What does the picture show?",
            )
        )
        yield Question(kind=Kind.DESCRIPTION, text=text, answer=description(scene))


def _follow_ups(asked: Question, rng: random.Random) -> Iterator[Question]:
    """Questions about the "it" of the last one, for what that one didn't ask."""
    thing = asked.about
    if thing is None:
        return
    both = asked.kind in (Kind.RELATION, Kind.SIZE)
    if asked.kind is not Kind.COLOR and not both and thing.color not in asked.text:
        text = rng.choice(("What color is it?", "And what color is it?", "Which colour does it have?"))
        yield Question(kind=Kind.COLOR, text=text, answer=thing.color, about=thing, is_follow_up=True)
    if asked.kind is not Kind.SHAPE and not thing.is_text and not both and thing.shape not in asked.text:
        text = rng.choice(("What shape is it?", "And what shape is it?", "Which shape is it?"))
        yield Question(kind=Kind.SHAPE, text=text, answer=thing.shape, about=thing, is_follow_up=True)
    if asked.kind is not Kind.POSITION and thing.has_clear_place and thing.place not in asked.text:
        text = rng.choice(("Where is it?", "And where is it?", "Where is it in the picture?"))
        yield Question(
            kind=Kind.POSITION,
            text=text,
            answer=thing.place,
            others=_spellings(thing.place),
            about=thing,
            is_follow_up=True,
        )


_ASKERS: tuple[Asker, ...] = (
    _color,
    _shape,
    _position,
    _count,
    _yes_no,
    _relation,
    _size,
    _text,
    _background,
    _absent,
    _description,
)
_WEIGHTS = {
    Kind.COUNT: 2.2,
    Kind.POSITION: 1.6,
    Kind.COLOR: 1.4,
    Kind.SHAPE: 1.4,
    Kind.WORD: 2.0,
    Kind.NUMBER: 2.0,
    Kind.RELATION: 1.4,
    Kind.BACKGROUND: 0.4,
    Kind.ABSENT: 0.5,
    Kind.DESCRIPTION: 0.7,
    Kind.SIZE: 0.8,
}
_ONCE = frozenset({Kind.DESCRIPTION, Kind.BACKGROUND, Kind.ABSENT})
