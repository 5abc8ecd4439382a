"""A question with a known answer, and the rule that its answers are graded by."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from core.domain.images import StoredImage
from core.errors import InputError
from core.i18n import N_, Text

MOST_TOKENS = 1024
_LETTERS = "ABCDEFGH"


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
