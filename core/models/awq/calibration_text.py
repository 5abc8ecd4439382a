"""Calibration text: from a file or from Python's own documentation, cut into samples of equal length.

Knows files and numbers of tokens, no tokenizer. Standard library only, since the worker runs it.
"""

import hashlib
import json
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.errors import InputError

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
            raise _unreadable(f"{file} is larger than 64 MiB", "A part of it is enough.")
        content = file.read_bytes()
        text = content.decode("utf-8")
    except OSError as exc:
        raise _unreadable(f"{file} can't be read: {exc.strerror}", "Check the path.") from exc
    except UnicodeDecodeError as exc:
        raise _unreadable(f"{file} is not UTF-8 text", "Convert it to UTF-8.") from exc
    documents: tuple[str | Conversation, ...] = (text,)
    if file.suffix == ".jsonl":
        lines = enumerate(text.splitlines(), start=1)
        documents = tuple(_document(line, f"{file}, line {n}") for n, line in lines if line.strip())
    return CalibrationText(file.name, hashlib.sha256(content).hexdigest(), documents)


def sample_starts(tokens: int, samples: int, seqlen: int) -> range:
    """Where each sample of `seqlen` tokens begins: spread evenly over the text, without overlap.

    Raises InputError (`calibration-too-short`) saying how many samples there would be.
    """
    there = tokens // seqlen
    if there < samples:
        raise InputError(
            f"The calibration text has {tokens:,} tokens: {there} samples of {seqlen:,}, not {samples}",
            hint=f"Choose at most {there} samples, shorter ones, or a longer text."
            if there
            else "Choose shorter samples or a longer text.",
            code="calibration-too-short",
        )
    stride = tokens // samples
    return range(0, stride * samples, stride)


def _document(line: str, place: str) -> str | Conversation:
    hint = 'Each line is {"text": "…"} or {"messages": [{"role": "user", "content": "…"}, …]}.'
    try:
        entry = json.loads(line)
    except ValueError as exc:
        raise _unreadable(f"{place} is not JSON: {exc}", hint) from exc
    if isinstance(entry, dict):
        text, messages = entry.get("text"), entry.get("messages")
        if isinstance(text, str):
            return text
        if isinstance(messages, list) and all(_is_message(message) for message in messages):
            return messages
    raise _unreadable(f"{place} has neither a text nor messages", hint)


def _is_message(value: object) -> bool:
    return isinstance(value, dict) and {"role", "content"} <= value.keys()


def _unreadable(message: str, hint: str) -> InputError:
    return InputError(message, hint=hint, code="calibration-unreadable")
