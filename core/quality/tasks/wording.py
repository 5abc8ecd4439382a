"""One form of short answers, in which they are compared: words only, no meaning.

Small letters, no punctuation, no articles, number words as digits; Chinese numerals up to 99 too. Chinese is
written without spaces, so each of its characters is a word of its own here.
"""

import re
import unicodedata
from collections.abc import Iterable

from core.i18n import N_

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
