"""Graders decide whether an answer is right: deterministic rules, no model judges another.

| grader | an answer is right if |
|---|---|
| `choice` | the letter it names is the right one, or it names only the right choice's text |
| `number` | its last number equals an expected one, within the tolerance |
| `exact` | it equals an expected answer; case, punctuation and articles make no difference |
| `contains` | it equals an expected answer or holds it as whole words |
| `json-schema` | the JSON in it fits the schema, and equals an expected value where there is one |
| `code` | the code in it has the same structure as an expected piece; it is never executed |

Code is read in one form: Python becomes its syntax tree, without docstrings and annotations, and with
arguments and local names numbered in the order in which they appear, so formatting, comments and names make
no difference. Anything else, and Python that does not parse, is compared as text without comments and blank
space.

`contains` accepts an answer that names something wrong as well, and "not red" for "red": it suits short
factual answers.
"""

import ast
import json
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from enum import StrEnum
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError
from referencing import Registry
from referencing.exceptions import Unresolvable

from core.errors import InputError
from core.i18n import N_
from core.quality.tasks.task import Grader, TaskItem, holds_any, normalised, numbers

_TOLERANCE = 1e-6
_LETTERS = "ABCDEFGH"
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
