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
from core.i18n import N_, Message, Text

KeyPath = tuple[str, ...]

NOT_A_TABLE = N_("{key} is not a table.")
NOT_TEXT = N_("{key} is not text.")
_FLAT_TABLES = (("cluster",),)
"""Tables that hold keys at once, and no tables of a name each."""
IN_QUOTES = N_('Write text in "double quotes".')


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
                N_("{file} is not a UTF-8 text file.", file=path.name), hint=N_("Save the file as UTF-8.")
            ) from None
        except OSError as exc:
            raise ConfigError(
                N_("{file} can't be read: {reason}", file=path.name, reason=exc.strerror),
                hint=N_("Check {path}.", path=path),
            ) from exc
        try:
            values = tomllib.loads(text)
        except tomllib.TOMLDecodeError as exc:
            raise _syntax_error(path.name, text, str(exc)) from None
        return cls(path.name, values, _locate(text))

    def error(self, path: KeyPath, problem: Message, hint: Text, **values: object) -> ConfigError:
        """`problem` names the key as `{key}`; never put the value of a secret into it."""
        known = path
        while known and known not in self.lines:
            known = known[:-1]
        problem = problem.filled(key=spelled(path), **values)
        if known:
            place = N_(
                "{file}, line {line}: {problem}", file=self.name, line=self.lines[known], problem=problem
            )
        else:
            place = N_("{file}: {problem}", file=self.name, problem=problem)
        return ConfigError(place, hint=hint)

    def unknown_key(
        self, path: KeyPath, allowed: Iterable[str], problem: Message, **values: object
    ) -> ConfigError:
        """A key that doesn't belong there, with the nearest one that does."""
        names = sorted(allowed)
        near = difflib.get_close_matches(path[-1], names, n=1)
        known = ", ".join(names)
        if near:
            hint = N_('Did you mean "{name}"? Allowed: {names}.', name=near[0], names=known)
        else:
            hint = N_("Allowed: {names}.", names=known)
        return self.error(path, problem, hint, **values)


def spelled(path: KeyPath) -> str:
    """("lanes", "hf", "dtype") as a person reads it in the file: `[lanes.hf] dtype`."""
    depth = 1 if path[:1] in _FLAT_TABLES else 2
    if len(path) <= depth:
        return f"[{'.'.join(path)}]" if path else "TOML"
    return f"[{'.'.join(path[:depth])}] {'.'.join(path[depth:])}"


def _syntax_error(name: str, text: str, parser_says: str) -> ConfigError:
    match = re.search(r"^(.*?) \(at (?:line (\d+), column (\d+)|end of document)\)$", parser_says)
    reason, line, column = match.groups() if match else (parser_says, None, None)
    if line:
        message = N_(
            "{file}, line {line}, column {column}: not valid TOML: {reason}",
            file=name,
            line=line,
            column=column,
            reason=reason,
        )
    else:
        last = text.rstrip().count("\n") + 1
        message = N_("{file}, line {line}: not valid TOML: {reason}", file=name, line=last, reason=reason)
    if reason.startswith(("Cannot", "Duplicate")):
        hint = N_("A key or table can appear only once. Remove or rename one of the two.")
    else:
        hint = N_('Write tables as [lanes.NAME], settings as key = value, and text in "double quotes".')
    return ConfigError(message, hint=hint)


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
