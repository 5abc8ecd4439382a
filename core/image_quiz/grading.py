"""When an answer counts as right. Words only: no model judges another.

Both sides are brought into one form: small letters, no punctuation, no articles, number words as digits. The
answer is right if it then equals one of the expected answers, or holds one of them as whole words, however
much it says besides. An answer that also names something wrong passes, and so does "not red" for "red": the
rule suits short factual answers, no more.
"""

import re
import unicodedata
from collections.abc import Iterable
from enum import StrEnum

RULE = (
    "An answer is right if it equals an expected answer or holds it as whole words. Case, punctuation and "
    "articles make no difference; number words count as digits. Errors are counted apart from wrong answers."
)

_ARTICLES = frozenset({"a", "an", "the"})
_NUMBER_WORDS = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"),
    *("eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"),
    "twenty",
)
_DIGITS = {word: str(number) for number, word in enumerate(_NUMBER_WORDS)}
_WORD = re.compile(r"\w+(?:\.\d+)?")


class Verdict(StrEnum):
    RIGHT = "right"
    WRONG = "wrong"
    NO_ANSWER = "no-answer"
    """The lane failed, or was stopped."""
    NOT_GRADED = "not-graded"
    """Nobody said what would be right."""


def is_right(text: str, expected: Iterable[str]) -> bool:
    """Whether an answer matches any of the expected ones by the rule above."""
    words = f" {normalised(text)} "
    return any(f" {form} " in words for answer in expected if (form := normalised(answer)))


def normalised(text: str) -> str:
    """The text in the form that is compared, its words with single spaces between.

    Chinese is written without spaces, so each of its characters is a word of its own here.
    """
    plain = unicodedata.normalize("NFKC", text).casefold()
    spaced = re.sub(r"([\u3400-\u9fff])", r" \1 ", plain)
    words = (_DIGITS.get(word, word) for word in _WORD.findall(spaced))
    return " ".join(word for word in words if word not in _ARTICLES)
