"""Calibration text: from a file or from Python's own documentation, cut into samples of equal length.

Knows files and numbers of tokens, no tokenizer. Standard library only, since the worker runs it.
"""

import hashlib
import json
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core import units
from core.errors import InputError
from core.i18n import N_

MAX_BYTES = 64 * 2**20
"""A calibration looks at some hundred thousand tokens; tokenising a corpus for that would take minutes."""

Conversation = list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class CalibrationText:
    """Documents to calibrate on: plain text, or conversations for the model's chat template."""

    name: str
    sha256: str
    documents: tuple[str | Conversation, ...]


def python_docs() -> CalibrationText:
    """The language reference as Python ships it for `help()`: about 110,000 tokens of technical English."""
    from pydoc_data.topics import topics

    documents = tuple(text for _, text in sorted(topics.items()))
    digest = hashlib.sha256("\n\n".join(documents).encode()).hexdigest()
    return CalibrationText(
        f"Python {platform.python_version()} language reference (pydoc_data.topics)", digest, documents
    )


def read_text(file: Path) -> CalibrationText:
    """The documents of a text file (the whole is one) or a `.jsonl` file (each line is one).

    Raises InputError: `calibration-unreadable`.
    """
    try:
        if file.stat().st_size > MAX_BYTES:
            raise _unreadable(
                N_("{file} is larger than {limit}.", file=file, limit="64 MiB"),
                N_("Use only a part of it."),
            )
        content = file.read_bytes()
        text = content.decode("utf-8")
    except OSError as exc:
        raise _unreadable(
            N_("{file} can't be read: {reason}", file=file, reason=exc.strerror),
            N_("Check the path and its permissions."),
        ) from exc
    except UnicodeDecodeError as exc:
        raise _unreadable(
            N_("{file} is not a UTF-8 text file.", file=file), N_("Save the file as UTF-8.")
        ) from exc
    documents: tuple[str | Conversation, ...] = (text,)
    if file.suffix == ".jsonl":
        lines = enumerate(text.splitlines(), start=1)
        documents = tuple(_document(line, file, number) for number, line in lines if line.strip())
    return CalibrationText(file.name, hashlib.sha256(content).hexdigest(), documents)


def sample_starts(tokens: int, samples: int, seqlen: int) -> range:
    """Where each sample of `seqlen` tokens begins: spread evenly over the text, without overlap.

    Raises InputError (`calibration-too-short`) saying how many samples there would be.
    """
    there = tokens // seqlen
    if there < samples:
        raise InputError(
            N_(
                "The calibration text has only {tokens} tokens, which is enough for {n} samples of "
                "{length} tokens "
                "instead of {samples}.",
                tokens=units.count(tokens),
                n=there,
                length=units.count(seqlen),
                samples=samples,
            ),
            hint=N_("Choose at most {n} samples, shorter samples, or a longer text.", n=there)
            if there
            else N_("Choose shorter samples or a longer text."),
            code="calibration-too-short",
        )
    stride = tokens // samples
    return range(0, stride * samples, stride)


def _document(line: str, file: Path, number: int) -> str | Conversation:
    hint = N_(
        "Write each line as {text} or {messages}.",
        text='{"text": "…"}',
        messages='{"messages": [{"role": "user", "content": "…"}, …]}',
    )
    try:
        entry = json.loads(line)
    except ValueError as exc:
        raise _unreadable(
            N_("{file}, line {line}: not valid JSON: {reason}", file=file, line=number, reason=exc), hint
        ) from exc
    if isinstance(entry, dict):
        text, messages = entry.get("text"), entry.get("messages")
        if isinstance(text, str):
            return text
        if isinstance(messages, list) and all(_is_message(message) for message in messages):
            return messages
    raise _unreadable(N_("{file}, line {line}: neither text nor messages.", file=file, line=number), hint)


def _is_message(value: object) -> bool:
    return isinstance(value, dict) and {"role", "content"} <= value.keys()


def _unreadable(message: str, hint: str) -> InputError:
    return InputError(message, hint=hint, code="calibration-unreadable")
