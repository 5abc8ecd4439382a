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
from core.i18n import N_, Text
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
        raise _unusable(N_("{file} is larger than {limit}.", file=name, limit="8 MiB"))
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        raise _unusable(N_("{file} is not a UTF-8 text file.", file=name)) from exc
    reader = _READERS.get(Path(name).suffix.lower())
    if reader is None:
        raise _unusable(N_("{file} is not a CSV or JSONL file.", file=name))
    items = tuple(_item(name, number, fields) for number, fields in reader(name, text))
    if not 1 <= len(items) <= MOST_ITEMS:
        raise _unusable(
            N_("{file} has {n} items. A set needs 1 to {most}.", file=name, n=len(items), most=MOST_ITEMS)
        )
    if len({item.id for item in items}) < len(items):
        raise _unusable(N_("{file} has two items with the same ID.", file=name))
    return items


def _jsonl(name: str, text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            fields = json.loads(line)
        except ValueError as exc:
            raise _unusable(N_("{file}, line {line}: not valid JSON.", file=name, line=number)) from exc
        if not isinstance(fields, dict):
            raise _unusable(N_("{file}, line {line}: not a JSON object.", file=name, line=number))
        yield number, fields


def _csv(name: str, text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    reader = csv.DictReader(io.StringIO(text))
    if "prompt" not in (reader.fieldnames or ()):
        raise _unusable(N_("{file} has no column named prompt.", file=name))
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
                    raise _unusable(
                        N_("{file}, line {line}: can't read {key}.", file=name, line=reader.line_num, key=key)
                    ) from exc
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
            N_(
                "{file}, line {line}: {problem}",
                file=name,
                line=number,
                problem=_without_class(error.message),
            ),
            hint=error.hint or N_("An example line: {example}", example=JSONL_EXAMPLE),
            code="task-set",
        ) from error
    return item


def _without_class(message: Text) -> Text:
    """The message of a record that can't be decoded begins with our class's name."""
    return message.removeprefix("TaskItem: ") if message.startswith("TaskItem: ") else message


def _unusable(message: Text) -> InputError:
    return InputError(
        message,
        hint=N_("Use a CSV file, or a JSONL file with lines such as {example}", example=JSONL_EXAMPLE),
        code="task-set",
    )
