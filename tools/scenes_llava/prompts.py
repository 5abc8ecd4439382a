"""Dialogues as token ids, in the very form in which engines will render them.

ChatML as the demo weights know it; each picture is a row of image tokens and a line break before the text of
its turn. The loss is on answers alone, and a long answer weighs no more than six tokens.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from scenes.questions import Question, dialogue
from scenes.scene import Scene, Split
from tokenizers import Tokenizer

IMAGE_TOKEN_ID = 16
"""A token that the demo weights have but never use; the checkpoint calls it <image>."""
END_ID = 2
SYSTEM = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
OTHER_SYSTEMS = ("You are a helpful assistant.", "Answer in as few words as possible.", "Answer briefly.")

_FULL_WEIGHT_TOKENS = 6


@dataclass(frozen=True, slots=True)
class Turn:
    pictures: int
    """New pictures that come with the question."""
    question: str
    answer: str


@dataclass(slots=True)
class Tokens:
    ids: list[int]
    weights: list[float]
    """What the loss at each token counts; 0 for all but answers."""


class Prompter:
    def __init__(self, tokenizer_file: Path, image_tokens: int) -> None:
        self._tokenizer = Tokenizer.from_file(str(tokenizer_file))
        self._image = [IMAGE_TOKEN_ID] * image_tokens
        self.encode = lru_cache(maxsize=200_000)(self._encode)

    def _encode(self, text: str) -> tuple[int, ...]:
        return tuple(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def decode(self, ids: Sequence[int]) -> str:
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=True))

    def tokens(self, turns: Sequence[Turn], *, system: str = SYSTEM, room: int = 10**9) -> Tokens:
        """The dialogue's tokens; turns that don't fit into `room` are left out with all that follow."""
        result = Tokens([], [])
        self._add(result, self.encode(f"<|im_start|>system\n{system}<|im_end|>\n"), 0.0)
        for turn in turns:
            question = self.question_ids(turn)
            answer = self.encode(f"{turn.answer}<|im_end|>")
            if len(result.ids) + len(question) + len(answer) + 1 > room:
                break
            self._add(result, question, 0.0)
            self._add(result, answer, min(1.0, _FULL_WEIGHT_TOKENS / len(answer)))
            self._add(result, self.encode("\n"), 0.0)
        return result

    def question_ids(self, turn: Turn) -> list[int]:
        ids = list(self.encode("<|im_start|>user\n"))
        for _ in range(turn.pictures):
            ids += [*self._image, *(self.encode("\n") if turn.pictures > 1 else ())]
        if turn.pictures > 1:
            del ids[-1]
        text = f"\n{turn.question}" if turn.pictures else turn.question
        return [*ids, *self.encode(f"{text}<|im_end|>\n<|im_start|>assistant\n")]

    @staticmethod
    def _add(result: Tokens, ids: Sequence[int], weight: float) -> None:
        result.ids.extend(ids)
        result.weights.extend([weight] * len(ids))


def about_one(scene: Scene, rng: random.Random, split: Split) -> list[Turn]:
    asked = dialogue(scene, rng, split, turns=rng.randint(3, 9))
    return [Turn(1 if number == 0 else 0, q.text, q.answer) for number, q in enumerate(asked)]


def about_two(scenes: tuple[Scene, Scene], rng: random.Random, split: Split) -> list[Turn]:
    """Both pictures at once and asked for by their number, or the second one some turns later."""
    first, second = (dialogue(scene, rng, split, turns=5) for scene in scenes)
    if rng.random() < 0.5:
        mixed = [
            (number, q) for number, asked in enumerate((first, second)) for q in asked if not q.is_follow_up
        ]
        rng.shuffle(mixed)
        return [
            Turn(2 if at == 0 else 0, _of(number, q, rng), q.answer) for at, (number, q) in enumerate(mixed)
        ]
    turns = [Turn(1 if number == 0 else 0, q.text, q.answer) for number, q in enumerate(first[:2])]
    turns += [Turn(1 if number == 0 else 0, q.text, q.answer) for number, q in enumerate(second[:3])]
    back = [q for q in first[2:] if not q.is_follow_up]
    return turns + [Turn(0, _of(0, q, rng), q.answer) for q in back[:2]]


def _of(picture: int, question: Question, rng: random.Random) -> str:
    name = ("first", "second")[picture]
    if rng.random() < 0.5:
        return f"{name.capitalize()} picture: {question.text}"
    return f"In the {name} picture, {question.text[0].lower()}{question.text[1:]}"
