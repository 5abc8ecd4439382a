"""Questions with known answers, and the graders that decide whether an answer is right.

Graders are deterministic rules; no model judges another. All of them compare the one form of short answers.
"""

import ast
import json
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError
from referencing import Registry
from referencing.exceptions import Unresolvable

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

_TOLERANCE = 1e-6
_LETTER_ALONE = re.compile(r"(?<![A-Za-z])([A-H])(?![A-Za-z'])")
_LETTER_FIRST = re.compile(r"\W*([A-H])(?![A-Za-z'])")
_ANNOUNCED = re.compile(
    r"(?:answer|option|choice|答案|选项|选择|选)\s*(?:is|为|是)?\s*[:：]?\s*[(（\[*]*([A-H])(?![A-Za-z'])",
    re.IGNORECASE,
)
_JSON_START = re.compile(r"[{\[]")
_FENCE = re.compile(r"```[\w+-]*\n(.*?)(?:```|\Z)", re.DOTALL)
_COMMENT = re.compile(r"(?m)(?:#|//).*$")
_MOST_CHARS = 20_000


class Grader(StrEnum):
    """The rules (`core.quality.tasks`)."""

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


class Grade(StrEnum):
    """A rule's result for the text of an answer."""

    RIGHT = "right"
    WRONG = "wrong"
    UNANSWERED = "unanswered"
    """There is nothing in it that the rule could look at: no text, no letter, no number, no JSON."""


def grade(item: TaskItem, text: str) -> Grade:
    """Apply the item's rule to the text of an answer."""
    if not text.strip():
        return Grade.UNANSWERED
    return _RULES[item.grader](item, text)


def check_schema(schema: Mapping[str, Any]) -> None:
    """Raise InputError for a schema that is none."""
    try:
        Draft202012Validator.check_schema(schema)
    except SchemaError as exc:
        raise InputError(
            N_("The JSON schema is not valid: {reason}", reason=exc.message),
            hint=N_("Write a schema that follows JSON Schema draft 2020-12."),
            code="task-set",
        ) from exc


def _choice(item: TaskItem, text: str) -> Grade:
    plain = unicodedata.normalize("NFKC", text).strip()
    letter = _letter(plain)
    if letter is not None:
        return _right_if(letter in item.answers)
    named = [_LETTERS[place] for place, choice in enumerate(item.choices) if holds_any(plain, (choice,))]
    if len(named) != 1:
        return Grade.UNANSWERED if not named else Grade.WRONG
    return _right_if(named[0] in item.answers)


def _letter(text: str) -> str | None:
    """The letter that an answer names: after "answer", at the start, or the only one that stands alone."""
    if announced := _ANNOUNCED.findall(text):
        return str(announced[-1]).upper()
    first = _LETTER_FIRST.match(text)
    # "A" begins many sentences: as an answer it stands alone or is followed by punctuation.
    if first and (first.group(1) != "A" or not re.match(r"\W*A\s+\w", text)):
        return first.group(1)
    alone = {letter for letter in _LETTER_ALONE.findall(text) if letter not in "AI"}
    return alone.pop() if len(alone) == 1 else None


def _number(item: TaskItem, text: str) -> Grade:
    given = numbers(text)
    if not given:
        return Grade.UNANSWERED
    allowed = item.tolerance or _TOLERANCE
    return _right_if(any(abs(given[-1] - number) <= allowed for number in map(float, item.answers)))


def _exact(item: TaskItem, text: str) -> Grade:
    form = normalised(text)
    return _right_if(any(form == normalised(answer) for answer in item.answers))


def _contains(item: TaskItem, text: str) -> Grade:
    return _right_if(holds_any(text, item.answers))


def _json_schema(item: TaskItem, text: str) -> Grade:
    has_json, value = _json_in(text)
    if not has_json:
        return Grade.UNANSWERED
    try:
        # An empty registry: a schema of somebody else's making must not make this program fetch addresses.
        fits = Draft202012Validator(item.json_schema or {}, registry=Registry()).is_valid(value)
    except (Unresolvable, RecursionError):
        return Grade.WRONG
    if not fits or not item.answers:
        return _right_if(fits)
    return _right_if(any(value == json.loads(answer) for answer in item.answers))


def _json_in(text: str) -> tuple[bool, Any]:
    """Whether there is a JSON object or array in the text, and the first one."""
    decoder = json.JSONDecoder()
    for start in _JSON_START.finditer(text):
        try:
            return True, decoder.raw_decode(text, start.start())[0]
        except (ValueError, RecursionError):
            continue
    return False, None


def _code(item: TaskItem, text: str) -> Grade:
    return _right_if(same_code(text, item.answers))


def _right_if(right: bool) -> Grade:
    return Grade.RIGHT if right else Grade.WRONG


_RULES: Mapping[Grader, Callable[[TaskItem, str], Grade]] = {
    Grader.CHOICE: _choice,
    Grader.NUMBER: _number,
    Grader.EXACT: _exact,
    Grader.CONTAINS: _contains,
    Grader.JSON_SCHEMA: _json_schema,
    Grader.CODE: _code,
}


def same_code(text: str, expected: Iterable[str]) -> bool:
    """Whether the code in an answer is the same as one of the expected pieces."""
    form = _form(code_in(text))
    return bool(form) and any(form == _form(code_in(code)) for code in expected)


def code_in(text: str) -> str:
    """The first fenced block of an answer, else the whole answer."""
    fenced = _FENCE.search(text)
    return (fenced.group(1) if fenced else text).strip()


def _form(code: str) -> str:
    if len(code) > _MOST_CHARS:
        return ""
    try:
        tree = ast.parse(code)
        return ast.dump(_Plain().visit(tree))
    # Deeply nested text exhausts the parser's stack or memory.
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return " ".join(re.findall(r"\w+|[^\w\s]", _COMMENT.sub("", code)))


class _Plain(ast.NodeTransformer):
    """Numbers local names; drops docstrings and annotations."""

    def __init__(self) -> None:
        self._names: dict[str, str] = {}

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        for argument in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs):
            self._number(argument.arg)
        for inner in ast.walk(node):
            if isinstance(inner, ast.Name) and isinstance(inner.ctx, ast.Store):
                self._number(inner.id)
        if ast.get_docstring(node, clean=False) is not None and len(node.body) > 1:
            node.body = node.body[1:]
        node.returns = None
        return self.generic_visit(node)

    def visit_arg(self, node: ast.arg) -> ast.AST:
        node.annotation = None
        node.arg = self._names.get(node.arg, node.arg)
        return node

    def visit_Name(self, node: ast.Name) -> ast.AST:
        node.id = self._names.get(node.id, node.id)
        return node

    def _number(self, name: str) -> None:
        self._names.setdefault(name, f"name{len(self._names)}")
