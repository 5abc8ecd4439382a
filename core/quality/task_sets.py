"""Sources of tasks and prompts: the sets that are shipped, the gallery's drawn scenes, and files of one's
own.
"""

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
from core.images.gallery import GalleryKind, gallery
from core.images.sanitise import sanitise
from core.images.store import ImageStore
from core.quality.tasks import Grader, TaskItem

_FOLDER = Path(__file__).parent / "data"
MOST_ITEMS = 2000
MOST_BYTES = 8 * 2**20
JSONL_EXAMPLE = '{"prompt": "What is 6 × 7?", "grader": "number", "answers": ["42"]}'
CSV_EXAMPLE = "prompt,answers,grader\nWhat is 6 × 7?,42,number\nIs ice water?,yes|yes it is,exact"
_SEPARATOR = "|"
"""Between several answers or choices in a field of a CSV file."""
SCENES = "scenes"
"""The set's name."""
PROMPTS = (
    "What is the capital of France?",
    "Explain in two sentences why the sky is blue.",
    "Write a short poem about the sea.",
    "What is the difference between a virus and a bacterium?",
    "Give me three tips for learning a new language.",
    "Summarise the story of Romeo and Juliet in three sentences.",
    "Write a Python function that reverses a string.",
    "What does the word “ubiquitous” mean? Use it in a sentence.",
    "List five animals that live in Africa.",
    "How does a bicycle stay upright?",
    "Describe the taste of a lemon to somebody who has never eaten one.",
    "What are the three states of matter?",
    "Write a polite email asking for a day off.",
    "Explain what a database index is.",
    "Who was Marie Curie?",
    "What should I pack for a weekend in the mountains?",
    "Convert 20 degrees Celsius to Fahrenheit and show the steps.",
    "Name three advantages and one disadvantage of electric cars.",
    "Tell me a short story about a lighthouse keeper.",
    "What happens when water freezes?",
    "How do I make a cup of tea?",
    "Explain the rule of three in mathematics with an example.",
    "What is photosynthesis?",
    "Give an example of a metaphor and explain it.",
    "请用两句话介绍北京。",
    "水为什么会结冰？",
    "请写一首关于秋天的短诗。",
    "学习编程有哪些好处？请列出三点。",
    "请解释什么是光合作用。",
    "用 Python 写一个计算列表平均值的函数。",
    "怎样保持健康的生活习惯？",
    "请用一句话总结《西游记》的故事。",
)


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
    from core.quality.tasks import check_schema

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


def scene_count() -> int:
    return sum(len(image.questions) for image in gallery() if image.kind is GalleryKind.SCENE)


def scenes(image_store: ImageStore) -> tuple[TaskItem, ...]:
    """A task for each question about a drawn scene; the scenes are put into the image store."""
    return tuple(
        TaskItem(
            id=f"{image.name}-{number}",
            prompt=asked.question,
            grader=Grader.CONTAINS,
            answers=asked.answers,
            language="en",
            topic="scenes",
            max_tokens=32,
            image=stored,
        )
        for image in gallery()
        if image.kind is GalleryKind.SCENE
        for stored in (image_store.put(sanitise(image.path.read_bytes(), name=image.path.name)),)
        for number, asked in enumerate(image.questions, start=1)
    )
