"""Read a gettext catalogue from its .po file, so that no compiled copy can be out of date.

Reads what gettext tools write: contexts, plural forms and texts over several lines. Fuzzy entries are left
out, because nobody has confirmed them. Standard library only.
"""

import gettext
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

_KEYWORD = re.compile(r'^(msgctxt|msgid_plural|msgid|msgstr)(?:\[(\d+)\])? +(".*")$')
_PLURAL = re.compile(r"plural *= *([^;]+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Catalogue:
    """The translations of one language."""

    texts: dict[tuple[str | None, str], tuple[str, ...]] = field(default_factory=dict)
    """The forms of a text by its context and English id; more than one only with plural forms."""
    plural_form: Callable[[int], int] = lambda n: int(n != 1)

    def text(self, id: str, context: str | None = None) -> str | None:
        """The translation; None for a text without one."""
        forms = self.texts.get((context, id))
        return forms[0] if forms else None

    def plural(self, id: str, n: int, context: str | None = None) -> str | None:
        """The translation in the form for `n` things; None for a text without one."""
        forms = self.texts.get((context, id))
        return forms[min(self.plural_form(n), len(forms) - 1)] if forms else None


def read(file: Path) -> Catalogue:
    """The file's translations; raises OSError without it, ValueError for text that is no catalogue."""
    texts: dict[tuple[str | None, str], tuple[str, ...]] = {}
    header = ""
    for block in file.read_text("utf-8").split("\n\n"):
        entry = _entry(block)
        if entry is None:
            continue
        context, id, forms = entry
        if id:
            texts[context, id] = forms
        else:
            header = forms[0]
    rule = _PLURAL.search(header)
    if rule is None:
        return Catalogue(texts=texts)
    return Catalogue(texts=texts, plural_form=gettext.c2py(rule[1].strip()))


def _entry(block: str) -> tuple[str | None, str, tuple[str, ...]] | None:
    """Context, id and translated forms of one entry; None for comments, fuzzy and untranslated entries."""
    fields: dict[tuple[str, int], str] = {}
    place = ("", 0)
    for line in block.splitlines():
        if line.startswith("#"):
            if line.startswith("#,") and "fuzzy" in line:
                return None
        elif line.startswith('"'):
            fields[place] += json.loads(line)
        elif match := _KEYWORD.match(line):
            place = (match[1], int(match[2] or 0))
            fields[place] = json.loads(match[3])
        elif line.strip():
            raise ValueError(f"not a line of a catalogue: {line!r}")
    forms = tuple(text for (keyword, _), text in sorted(fields.items()) if keyword == "msgstr")
    if not forms or not all(forms):
        return None
    return fields.get(("msgctxt", 0)), fields[("msgid", 0)], forms
