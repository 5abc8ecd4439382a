"""The held-out set: questions about scenes that training can't have seen, the same for everyone.

Colours, shapes and places are asked of held-out pairs of colour and shape alone. Words and numbers are asked
twice over: such as training knows in new scenes, and such as it never showed.
"""

import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from scenes.questions import Kind, Question, all_questions, dialogue
from scenes.scene import Scene, Split, random_scene
from scenes.vocabulary import is_held_out_pair

EXAM_SEED = 7_000_001
"""Far from all seeds of training."""

FOLLOW_UP = "follow-up"
UNSEEN_WORD = "word-unseen"
UNSEEN_NUMBER = "number-unseen"
TOPICS = (*Kind, FOLLOW_UP, UNSEEN_WORD, UNSEEN_NUMBER)


@dataclass(frozen=True, slots=True)
class Item:
    """One question of the exam."""

    topic: str
    """What its accuracy is reported under: one of TOPICS."""
    scene: Scene
    earlier: tuple[Question, ...]
    """What was asked before it about the same picture, for follow-ups."""
    question: Question


def exam(per_topic: int, *, seed: int = EXAM_SEED) -> list[Item]:
    """As many questions of each topic; counts as evenly over their answers as scenes allow."""
    rng = random.Random(seed)
    items: list[Item] = []
    asked: Counter[str] = Counter()
    answers: Counter[str] = Counter()
    while any(asked[topic] < per_topic for topic in TOPICS):
        split = Split.HELD_OUT if rng.random() < 0.8 else Split.TRAIN
        scene = random_scene(rng, split)
        open_items = [item for item in _items(scene, split, rng) if asked[item.topic] < per_topic]
        open_items.sort(key=lambda item: (answers[_answer_key(item)], asked[item.topic]))
        for item in open_items[:2]:
            if asked[item.topic] < per_topic:
                items.append(item)
                asked[item.topic] += 1
                answers[_answer_key(item)] += 1
    return items


def _items(scene: Scene, split: Split, rng: random.Random) -> Iterator[Item]:
    for question in all_questions(scene, rng, split):
        if topic := _topic(question, split):
            yield Item(topic, scene, (), question)
    if split is Split.HELD_OUT:
        asked = dialogue(scene, rng, split, turns=3)
        for at, question in enumerate(asked):
            if question.is_follow_up:
                yield Item(FOLLOW_UP, scene, tuple(asked[:at]), question)


def _topic(question: Question, split: Split) -> str | None:
    """None for what would not be a fair question of a held-out set."""
    kind = question.kind
    if kind in (Kind.WORD, Kind.NUMBER):
        if split is Split.TRAIN:
            return str(kind)
        if kind is Kind.WORD:
            return UNSEEN_WORD
        return UNSEEN_NUMBER if len(question.answer) > 1 else None
    if split is Split.TRAIN:
        return None
    if kind in (Kind.COLOR, Kind.SHAPE, Kind.POSITION):
        thing = question.about
        if thing is None or thing.is_text or not is_held_out_pair(thing.color, thing.shape):
            return None
    if kind is Kind.COUNT and int(question.answer) > 5:
        return None
    return str(kind)


def _answer_key(item: Item) -> str:
    return f"{item.topic}: {item.question.answer}"
