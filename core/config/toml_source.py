"""A TOML file whose values know their lines, which `tomllib` does not tell.

`TomlSource.error` makes the one kind of message that LMDyno has for a mistake in such a file: file, line,
key, what is wrong, and what is allowed.
"""

import difflib
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.errors import ConfigError

KeyPath = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class TomlSource:
    """A parsed TOML document and the line on which each key stands."""

    name: str
    values: Mapping[str, Any]
    lines: Mapping[KeyPath, int]

    @classmethod
    def read(cls, path: Path) -> "TomlSource":
        """Parse a file; raises ConfigError if it can't be read or is not TOML."""
        try:
            text = path.read_text("utf-8-sig")  # editors on Windows put a byte order mark in front
        except UnicodeDecodeError:
            raise ConfigError(
                f"{path.name} is not a UTF-8 text file", hint="Save it again as UTF-8."
            ) from None
        except OSError as exc:
            raise ConfigError(f"{path.name} can't be read: {exc.strerror}", hint=f"Look at {path}.") from exc
        try:
            values = tomllib.loads(text)
        except tomllib.TOMLDecodeError as exc:
            raise _syntax_error(path.name, text, str(exc)) from None
        return cls(path.name, values, _locate(text))

    def error(self, path: KeyPath, problem: str, hint: str) -> ConfigError:
        """`problem` continues the key's name; never put the value of a secret into it."""
        known = path
        while known and known not in self.lines:
            known = known[:-1]
        line = f", line {self.lines[known]}" if known else ""
        return ConfigError(f"{self.name}{line}: {spelled(path)} {problem}".rstrip(), hint=hint)

    def unknown_key(self, path: KeyPath, allowed: Iterable[str], place: str) -> ConfigError:
        """A key that `place` does not have, with the nearest one that it has."""
        names = sorted(allowed)
        near = difflib.get_close_matches(path[-1], names, n=1)
        return self.error(
            path,
            f"is not a key of {place}",
            (f'Did you mean "{near[0]}"? ' if near else "") + f"Allowed: {', '.join(names)}.",
        )


def spelled(path: KeyPath) -> str:
    """("lanes", "hf", "dtype") as a person reads it in the file: `[lanes.hf] dtype`."""
    if len(path) <= 2:
        return f"[{'.'.join(path)}]" if path else "the file"
    return f"[{'.'.join(path[:2])}] {'.'.join(path[2:])}"


def _syntax_error(name: str, text: str, parser_says: str) -> ConfigError:
    found = re.search(r"^(.*?) \(at (?:line (\d+), column (\d+)|end of document)\)$", parser_says)
    reason, line, column = found.groups() if found else (parser_says, None, None)
    place = f"line {line}, column {column}" if line else f"line {text.rstrip().count(chr(10)) + 1}"
    if reason.startswith(("Cannot", "Duplicate")):
        hint = "A key or table may stand there once: remove or rename one of the two."
    else:
        hint = 'A table is [lanes.NAME], a setting key = value, text goes in "double quotes".'
    return ConfigError(f"{name}, {place} is not valid TOML: {reason}", hint=hint)


def _locate(text: str) -> dict[KeyPath, int]:
    """The line, from 1, of each table and key of a valid document."""
    lines: dict[KeyPath, int] = {}
    table: KeyPath = ()
    for number, statement, parsed in _statements(text):
        if statement.lstrip().startswith("["):
            table = next(_key_paths(parsed), ())
            prefix: KeyPath = ()
        else:
            prefix = table
        for path in _key_paths(parsed):
            whole = (*prefix, *path)
            for length in range(1, len(whole) + 1):
                lines.setdefault(whole[:length], number)
    return lines


def _statements(text: str) -> Iterator[tuple[int, str, dict[str, Any]]]:
    """Line, source and value of each statement of a valid document.

    A statement is complete once it parses on its own: that handles strings and arrays over several lines
    without a second parser.
    """
    pending, first = "", 1
    for number, line in enumerate(text.split("\n"), start=1):
        first = first if pending else number
        pending += line + "\n"
        try:
            parsed = tomllib.loads(pending)
        except tomllib.TOMLDecodeError:
            continue
        if parsed:
            yield first, pending, parsed
        pending = ""


def _key_paths(parsed: Mapping[str, Any]) -> Iterator[KeyPath]:
    """Paths of the leaves; an empty table is a leaf."""
    for key, value in parsed.items():
        below = list(_key_paths(value)) if isinstance(value, dict) else []
        if below:
            yield from ((key, *path) for path in below)
        else:
            yield (key,)
