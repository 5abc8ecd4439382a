"""Parse what people type or name into values of a plan; every mistake is an InputError that says what to
write.
"""

import math
from pathlib import PurePath

from core.bench.planning.plan import PromptKind
from core.errors import InputError
from core.i18n import N_

_KINDS = {
    "": PromptKind.TEXT,
    ".txt": PromptKind.TEXT,
    ".text": PromptKind.TEXT,
    ".jsonl": PromptKind.JSONL,
    ".ndjson": PromptKind.JSONL,
    ".json": PromptKind.SHAREGPT,
    ".csv": PromptKind.CSV,
    ".tsv": PromptKind.CSV,
}
PROMPT_ENDINGS = tuple(ending.removeprefix(".") for ending in _KINDS if ending)


def parse_numbers(name: str, text: str) -> tuple[float, ...]:
    """`1, 2.5, 4` as numbers; `name` says in the error what they are."""
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError:
        values = (math.nan,)
    if not all(map(math.isfinite, values)):
        raise InputError(
            N_("{name} must be a list of numbers, not “{text}”.", name=name, text=text),
            hint=N_("Enter a list such as 1,4,16."),
        )
    return values


def parse_whole_numbers(name: str, text: str) -> tuple[int, ...]:
    """`1, 4, 16` as whole numbers."""
    values = parse_numbers(name, text)
    if any(value % 1 for value in values):
        raise InputError(
            N_("{name} must be a list of whole numbers, not “{text}”.", name=name, text=text),
            hint=N_("Enter a list such as 1,4,16."),
        )
    return tuple(int(value) for value in values)


def prompt_kind(file_name: str) -> PromptKind:
    """Return how a prompt file is read, by its ending. Raises InputError (`prompt-file`) for one that is
    unknown.
    """
    ending = PurePath(file_name).suffix.lower()
    if ending not in _KINDS:
        raise InputError(
            N_("Can't tell from the ending {ending} how to read the prompts.", ending=ending),
            hint=N_("Known endings: {endings}.", endings=", ".join(filter(None, _KINDS))),
            code="prompt-file",
        )
    return _KINDS[ending]
