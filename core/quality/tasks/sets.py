"""Where tasks come from: the sets that are shipped, the gallery's drawn scenes, and files of one's own."""

import csv
import io
import json
from collections.abc import Callable, Iterator, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any

from core.codec import decode, encode
from core.errors import InputError
from core.quality.tasks.task import Grader, TaskItem

_FOLDER = Path(__file__).parent / "data"
MOST_ITEMS = 2000
MOST_BYTES = 8 * 2**20
JSONL_EXAMPLE = '{"prompt": "What is 6 × 7?", "grader": "number", "answers": ["42"]}'
CSV_EXAMPLE = "prompt,answers,grader\nWhat is 6 × 7?,42,number\nIs ice water?,yes|yes it is,exact"
_SEPARATOR = "|"
"""Between several answers or choices in a field of a CSV file."""


class ShippedSet(StrEnum):
    """The sets that come with LMDyno; every answer in them was checked."""

    ENGLISH = "english"
    CHINESE = "chinese"


def shipped(name: ShippedSet) -> tuple[TaskItem, ...]:
    """The items of a shipped set."""
    text = (_FOLDER / f"{name}.jsonl").read_text("utf-8")
    return tuple(decode(TaskItem, line) for line in text.splitlines())


def read_set(name: str, content: bytes) -> tuple[TaskItem, ...]:
    """The items of a CSV or JSONL file.

    Raises InputError (`task-set`) naming the first line that is wrong. In a CSV file several answers or
    choices stand in one field, separated by "|". Without a grader an item with choices is a `choice`, any
    other one `contains`.
    """
    if len(content) > MOST_BYTES:
        raise _unusable(f"{name} is larger than 8 MiB")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        raise _unusable(f"{name} is not UTF-8 text") from exc
    reader = _READERS.get(Path(name).suffix.lower())
    if reader is None:
        raise _unusable(f"{name} is neither a CSV nor a JSONL file")
    items = tuple(_item(name, number, fields) for number, fields in reader(name, text))
    if not 1 <= len(items) <= MOST_ITEMS:
        raise _unusable(f"{name} has {len(items)} items; a set has 1 to {MOST_ITEMS}")
    if len({item.id for item in items}) < len(items):
        raise _unusable(f"{name} has two items with the same id")
    return items


def _jsonl(name: str, text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            fields = json.loads(line)
        except ValueError as exc:
            raise _unusable(f"{name}, line {number}: it is not JSON") from exc
        if not isinstance(fields, dict):
            raise _unusable(f"{name}, line {number}: it is not an object")
        yield number, fields


def _csv(name: str, text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    reader = csv.DictReader(io.StringIO(text))
    if "prompt" not in (reader.fieldnames or ()):
        raise _unusable(f"{name} has no column named prompt")
    for row in reader:
        fields: dict[str, Any] = {key: value for key, value in row.items() if key and value}
        for key in ("answers", "choices"):
            if key in fields:
                fields[key] = [part.strip() for part in fields[key].split(_SEPARATOR)]
        for key, convert in _CONVERTED.items():
            if key in fields:
                try:
                    fields[key] = convert(fields[key])
                except ValueError as exc:
                    raise _unusable(f"{name}, line {reader.line_num}: {key} can't be read") from exc
        yield reader.line_num, fields


_CONVERTED: Mapping[str, Callable[[str], object]] = {
    "json_schema": json.loads,
    "tolerance": float,
    "max_tokens": int,
}
_READERS: Mapping[str, Callable[[str, str], Iterator[tuple[int, dict[str, Any]]]]] = {
    ".jsonl": _jsonl,
    ".csv": _csv,
}


def _item(name: str, number: int, fields: dict[str, Any]) -> TaskItem:
    from core.quality.tasks.graders import check_schema

    fields.setdefault("id", f"line-{number}")
    if "grader" not in fields:
        fields["grader"] = Grader.CHOICE if fields.get("choices") else Grader.CONTAINS
    try:
        item = decode(TaskItem, encode(fields))
        if item.json_schema is not None:
            check_schema(item.json_schema)
    except InputError as error:
        raise InputError(
            f"{name}, line {number}: {error.message.removeprefix('TaskItem: ')}",
            hint=error.hint or f"A line is such as {JSONL_EXAMPLE}",
            code="task-set",
        ) from error
    return item


def _unusable(message: str) -> InputError:
    return InputError(
        message, hint=f"Give a JSONL file with lines such as {JSONL_EXAMPLE}, or a CSV file.", code="task-set"
    )
