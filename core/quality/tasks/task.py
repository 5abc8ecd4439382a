"""A question with a known answer, the rule that its answers are graded by, and the one form of short answers.

In that form short answers are compared: words only, no meaning. Small letters, no punctuation, no articles,
number words as digits; Chinese numerals up to 99 too. Chinese is written without spaces, so each of its
characters is a word of its own here.
"""

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from core.domain.conversation import StoredImage
from core.errors import InputError
from core.i18n import N_, Text

MOST_TOKENS = 1024
_LETTERS = "ABCDEFGH"
RULE = N_(
    "An answer counts as correct if it matches an expected answer or contains it as whole words. Case, "
    "punctuation, and articles are ignored, and number words count as digits. Errors are counted separately."
)
"""The rule of `holds_any`, in words."""

_ARTICLES = frozenset({"a", "an", "the"})
_NUMBER_WORDS = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"),
    *("eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"),
    "twenty",
)
_DIGITS = {word: str(number) for number, word in enumerate(_NUMBER_WORDS)}
_WORD = re.compile(r"\w+(?:\.\d+)?")
_CHINESE_DIGITS = {"零": 0, "〇": 0, "一": 1, "二": 2, "两": 2, "三": 3, "四": 4} | {
    "五": 5, "六": 6, "七": 7, "八": 8, "九": 9
}  # fmt: skip
_CHINESE_NUMERAL = re.compile(
    r"[零〇一二两三四五六七八九]?十[一二三四五六七八九]?|[零〇一二两三四五六七八九]"
)
_NUMBER = re.compile(r"[-−]?\d[\d,]*(?:\.\d+)?|[-−]?\.\d+")


class Grader(StrEnum):
    """The rules (`core.quality.tasks.graders`)."""

    CHOICE = "choice"
    NUMBER = "number"
    EXACT = "exact"
    CONTAINS = "contains"
    JSON_SCHEMA = "json-schema"
    CODE = "code"


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskItem:
    """One question. Raises InputError for one that can't be graded."""

    id: str
    prompt: str
    grader: Grader
    answers: tuple[str, ...] = ()
    """Any of these is right; of a choice the letters."""
    choices: tuple[str, ...] = ()
    """Of a choice: what A, B, … stand for."""
    json_schema: dict[str, Any] | None = None
    tolerance: float = 0.0
    """Of a number: how far off still counts as right."""
    language: str = ""
    """`en` or `zh` in the shipped sets."""
    topic: str = ""
    max_tokens: int = 64
    image: StoredImage | None = None
    """Shown with the question."""

    def __post_init__(self) -> None:
        if problem := self._problem():
            raise InputError(
                N_("Task {id}: {problem}.", id=self.id or "?", problem=problem), hint=_HINT, code="task-set"
            )

    @property
    def text(self) -> str:
        """The question as it is asked: a choice with its choices."""
        if not self.choices:
            return self.prompt
        lines = [f"{letter}. {choice}" for letter, choice in zip(_LETTERS, self.choices, strict=False)]
        ending = "只回答选项字母。" if self.language == "zh" else "Answer with the letter only."
        return "\n".join((self.prompt, *lines, ending))

    def _problem(self) -> Text | None:
        if not self.id or not self.prompt.strip():
            return N_("it needs an ID and a prompt")
        if not 1 <= self.max_tokens <= MOST_TOKENS:
            return N_(
                "max_tokens is {value}, but must be from 1 to {most}", value=self.max_tokens, most=MOST_TOKENS
            )
        if not self.answers and self.grader is not Grader.JSON_SCHEMA:
            return N_("it has no expected answers")
        if self.grader is Grader.CHOICE:
            letters = _LETTERS[: len(self.choices)]
            if not 2 <= len(self.choices) <= len(_LETTERS) or not set(self.answers) <= set(letters):
                return N_(
                    "the choice grader needs 2 to 8 choices, and the letters of the correct ones as answers"
                )
        if self.grader is Grader.JSON_SCHEMA and self.json_schema is None:
            return N_("it needs a json_schema")
        if self.grader is Grader.NUMBER and not all(_is_number(answer) for answer in self.answers):
            return N_("its expected answers are not all numbers")
        return None


_HINT = N_(
    "An example item: {example}. Graders: choice, number, exact, contains, json-schema, code.",
    example='{"id": "1", "prompt": "What is 6 × 7?", "grader": "number", "answers": ["42"]}',
)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def normalised(text: str) -> str:
    """The text in the form that is compared, its words with single spaces between."""
    plain = unicodedata.normalize("NFKC", text).casefold()
    spaced = re.sub(r"([\u3400-\u9fff])", r" \1 ", plain)
    words = (_DIGITS.get(word, word) for word in _WORD.findall(spaced))
    return " ".join(word for word in words if word not in _ARTICLES)


def holds_any(text: str, expected: Iterable[str]) -> bool:
    """Whether the text equals one of the expected answers, or holds one as whole words."""
    words = f" {normalised(text)} "
    return any(f" {form} " in words for answer in expected if (form := normalised(answer)))


def numbers(text: str) -> tuple[float, ...]:
    """The numbers in the text in their order: in digits, or where there are none, in words or numerals."""
    plain = unicodedata.normalize("NFKC", text)
    written = tuple(
        float(number.replace(",", "").replace("−", "-"))
        for number in _NUMBER.findall(re.sub(r"(?<=\w)[-−](?=\d)", " ", plain))
    )
    return written or _spelled(plain)


def _spelled(text: str) -> tuple[float, ...]:
    if words := [float(_DIGITS[word]) for word in _WORD.findall(text.casefold()) if word in _DIGITS]:
        return tuple(words)
    return tuple(_chinese(numeral) for numeral in _CHINESE_NUMERAL.findall(text))


def _chinese(numeral: str) -> float:
    if "十" not in numeral:
        return float(_CHINESE_DIGITS[numeral])
    tens, _, ones = numeral.partition("十")
    return float(_CHINESE_DIGITS.get(tens, 1) * 10 + _CHINESE_DIGITS.get(ones, 0))
