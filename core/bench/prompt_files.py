"""Prompts out of files that other people wrote: text, JSONL, JSON and CSV.

A line ends at `\n` or `\r\n` alone: other separators (U+2028, U+0085, form feed) are part of a text. What
can't be asked is refused with the line and the part of it that is wrong, or left out and counted.
"""

import csv
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePath
from typing import Any

from core.bench.plan import PromptKind
from core.chat_api.lenient import well_formed
from core.domain.conversation import Message, Role
from core.errors import InputError
from core.i18n import N_, N_plural, Text

_MAX_FILE_BYTES = 2**30
_MAX_CELL_CHARS = 2**24
_UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")
_ROLES = {
    "system": Role.SYSTEM,
    "developer": Role.SYSTEM,
    "user": Role.USER,
    "human": Role.USER,
    "assistant": Role.ASSISTANT,
    "gpt": Role.ASSISTANT,
    "model": Role.ASSISTANT,
    "bot": Role.ASSISTANT,
}
_TEXT_FIELDS = ("prompt", "text", "question", "instruction", "input", "query")
_LISTS = ("messages", "conversations", "conversation", "turns")
_HOLDERS = ("prompts", "data", "items", "rows")
_NAME_FIELDS = ("role", "from")
_CONTENT_FIELDS = ("content", "value", "text")
_DELIMITERS = ",;\t"
_KINDS_BY_ENDING = {
    "": PromptKind.TEXT,
    ".txt": PromptKind.TEXT,
    ".text": PromptKind.TEXT,
    ".jsonl": PromptKind.JSONL,
    ".ndjson": PromptKind.JSONL,
    ".json": PromptKind.SHAREGPT,
    ".csv": PromptKind.CSV,
    ".tsv": PromptKind.CSV,
}
PROMPT_ENDINGS = tuple(ending.removeprefix(".") for ending in _KINDS_BY_ENDING if ending)


class _Wrong(Exception):
    """A problem with one prompt, to be told with its place."""

    def __init__(self, reason: Text) -> None:
        super().__init__(reason)
        self.reason = reason


class _AsksNothing(Exception):
    """A conversation without a question."""


@dataclass(slots=True)
class PromptFile:
    """The prompts of a file, and what was left out of it."""

    prompts: list[tuple[Message, ...]] = field(default_factory=list)
    left_out: int = 0
    """Blank prompts, and conversations in which nobody asks anything."""
    cut: int = 0
    """Conversations that were cut before the assistant's last words, since those are not asked."""

    def add(self, prompt: tuple[Message, ...]) -> None:
        """Keep a prompt up to the last thing that was asked; raises _Wrong for one that asks nothing."""
        if not prompt:
            raise _Wrong(N_("it has no messages"))
        asked = [place for place, message in enumerate(prompt) if message.role is Role.USER]
        if not asked:
            raise _Wrong(N_("it has no message from the user"))
        kept = prompt[: asked[-1] + 1]
        if not kept[-1].content.strip():
            self.left_out += 1
            return
        self.cut += len(kept) < len(prompt)
        self.prompts.append(kept)

    def remarks(self) -> list[Text]:
        """Return what was left out, for the prompts' label."""
        remarks: list[Text] = []
        if self.left_out:
            remarks.append(
                N_plural("{n} without a question left out", "{n} without a question left out", self.left_out)
            )
        if self.cut:
            remarks.append(
                N_plural(
                    "{n} conversation cut after its last question",
                    "{n} conversations cut after their last question",
                    self.cut,
                )
            )
        return remarks


def prompt_kind(file_name: str) -> PromptKind:
    """Return how a prompt file is read, by its ending. Raises InputError (`prompt-file`) for one that is
    unknown.
    """
    ending = PurePath(file_name).suffix.lower()
    if ending not in _KINDS_BY_ENDING:
        raise InputError(
            N_("Can't tell from the ending {ending} how to read the prompts.", ending=ending),
            hint=N_("Known endings: {endings}.", endings=", ".join(filter(None, _KINDS_BY_ENDING))),
            code="prompt-file",
        )
    return _KINDS_BY_ENDING[ending]


def read_prompts(kind: PromptKind, path: Path) -> PromptFile:
    """The prompts of a file. Raises InputError (`prompt-file`)."""
    text = _read(path)
    read = {
        PromptKind.TEXT: _of_text,
        PromptKind.JSONL: _of_jsonl,
        PromptKind.SHAREGPT: _of_json,
        PromptKind.CSV: _of_csv,
    }[kind]
    prompts = PromptFile()
    for place, make in read(path, text):
        try:
            prompts.add(make())
        except _AsksNothing:
            prompts.left_out += 1
        except _Wrong as wrong:
            raise unusable(path, N_("{place}: {reason}", place=place, reason=wrong.reason)) from None
    if not prompts.prompts:
        raise unusable(path, N_("it contains no prompts"))
    return prompts


def unusable(path: Path, reason: Text) -> InputError:
    return InputError(
        N_("Can't use the prompts in {path}: {reason}.", path=path, reason=reason),
        hint=N_(
            "Use a .txt file with one prompt per line, .jsonl, ShareGPT-style .json, or .csv with a "
            "prompt column."
        ),
        code="prompt-file",
    )


_Prompts = Iterator[tuple[Text, Callable[[], tuple[Message, ...]]]]
"""Where each prompt stands, and a function that makes its messages, which may raise _Wrong."""


def _read(path: Path) -> str:
    try:
        if path.stat().st_size > _MAX_FILE_BYTES:
            raise unusable(path, N_("it is larger than {limit}", limit="1 GiB"))
        data = path.read_bytes()
    except OSError as exc:
        raise unusable(path, N_("it can't be read ({reason})", reason=exc.strerror)) from exc
    encoding = "utf-16" if data.startswith(_UTF16_MARKS) else "utf-8-sig"
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as exc:
        line = data.count(b"\n", 0, exc.start) + 1
        raise unusable(path, N_("line {line} is not UTF-8 text", line=line)) from exc


def _lines(text: str) -> Iterator[tuple[Text, str]]:
    for number, line in enumerate(text.split("\n"), start=1):
        line = line.removesuffix("\r")
        if line.strip():
            yield N_("line {line}", line=number), line


def _of_text(_path: Path, text: str) -> _Prompts:
    return ((place, partial(_asked, line)) for place, line in _lines(text))


def _of_jsonl(_path: Path, text: str) -> _Prompts:
    for place, line in _lines(text):

        def messages(line: str = line) -> tuple[Message, ...]:
            try:
                return _messages(json.loads(line))
            except (ValueError, RecursionError) as exc:
                raise _Wrong(N_("it is not valid JSON")) from exc

        yield place, messages


def _of_json(path: Path, text: str) -> _Prompts:
    try:
        document = json.loads(text)
    except json.JSONDecodeError as exc:
        raise unusable(
            path, N_("line {line}, column {column} is not valid JSON", line=exc.lineno, column=exc.colno)
        ) from exc
    except (ValueError, RecursionError) as exc:
        raise unusable(path, N_("it is not valid JSON")) from exc
    if isinstance(document, dict):
        document = next(
            (document[name] for name in _HOLDERS if isinstance(document.get(name), list)), document
        )
    if not isinstance(document, list):
        raise unusable(path, N_("it is not a list of prompts or conversations"))
    return (
        (N_("item {number}", number=number), partial(_messages, item, first_only=True))
        for number, item in enumerate(document, start=1)
    )


def _of_csv(path: Path, text: str) -> _Prompts:
    first = text.split("\n", 1)[0]
    delimiter = max(_DELIMITERS, key=first.count)
    before = csv.field_size_limit(_MAX_CELL_CHARS)
    try:
        rows = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
        head = [name.strip().lower() for name in next(rows, [])]
        column = next((head.index(name) for name in _TEXT_FIELDS if name in head), None)
        if column is None:
            raise unusable(
                path,
                N_(
                    "its columns are {columns}, and none is one of {names}",
                    columns=", ".join(head) or "–",
                    names=", ".join(_TEXT_FIELDS),
                ),
            )
        context = head.index("input") if head[column] == "instruction" and "input" in head else len(head)
        cells = [
            (rows.line_num, _instruction(*(row[at] if at < len(row) else "" for at in (column, context))))
            for row in rows
            if row
        ]
    except csv.Error as exc:
        raise unusable(path, N_("it is not valid CSV ({reason})", reason=str(exc))) from exc
    finally:
        csv.field_size_limit(before)
    return ((N_("line {line}", line=line), partial(_asked, cell)) for line, cell in cells)


def _messages(document: object, *, first_only: bool = False) -> tuple[Message, ...]:
    """The messages of a text, an object with one, or a conversation; `first_only` up to what was asked
    first."""
    if isinstance(document, str):
        return _asked(document)
    if isinstance(document, list):
        return _conversation(document)
    if not isinstance(document, dict):
        raise _Wrong(N_("it is neither text nor an object"))
    for name in _LISTS:
        if name in document:
            messages = _conversation(document[name])
            return _until_first_question(messages) if first_only and name != "messages" else messages
    for name in _TEXT_FIELDS:
        if name in document:
            text = _text(document[name], name)
            context = document.get("input") if name == "instruction" else None
            return _asked(_instruction(text, "" if context is None else _text(context, "input")))
    raise _Wrong(N_("it has none of {names}", names=", ".join((*_TEXT_FIELDS[:2], "messages"))))


def _conversation(messages: object) -> tuple[Message, ...]:
    if not isinstance(messages, list):
        raise _Wrong(N_("its messages are not a list"))
    return tuple(_message(message, number) for number, message in enumerate(messages, start=1))


def _message(message: object, number: int) -> Message:
    if not isinstance(message, dict):
        raise _Wrong(N_("message {number} is not an object", number=number))
    role = _first(message, _NAME_FIELDS)
    known = _ROLES.get(role.lower()) if isinstance(role, str) else None
    if known is None:
        raise _Wrong(N_("message {number} has the unknown role {role}", number=number, role=_shown(role)))
    content = _first(message, _CONTENT_FIELDS)
    return Message(known, "" if content is None else _text(content, f"message {number}"))


def _until_first_question(messages: Sequence[Message]) -> tuple[Message, ...]:
    """ShareGPT: what a human said first, with the system prompt before it."""
    asked = next((m for m in messages if m.role is Role.USER and m.content.strip()), None)
    if asked is None:
        raise _AsksNothing
    return (*(m for m in messages[:1] if m.role is Role.SYSTEM and m.content.strip()), asked)


def _text(value: object, name: str) -> str:
    """The text of a value or of a list of parts; raises _Wrong for anything else."""
    if isinstance(value, str):
        return well_formed(value)
    if isinstance(value, list) and all(
        isinstance(part, dict) and isinstance(part.get("text"), str) for part in value
    ):
        return well_formed("".join(part["text"] for part in value))
    raise _Wrong(N_("{name} is not text", name=name))


def _instruction(text: str, context: str) -> str:
    """What Alpaca's format asks: an instruction and, where there is one, the input that it is about."""
    return f"{text}\n\n{context}" if context.strip() else text


def _asked(text: str) -> tuple[Message, ...]:
    return (Message(Role.USER, well_formed(text)),)


def _first(message: Mapping[str, Any], names: Sequence[str]) -> Any:  # noqa: ANN401 - JSON
    return next((message[name] for name in names if name in message), None)


def _shown(role: object) -> str:
    return str(role)[:40] if isinstance(role, str) else "–"
