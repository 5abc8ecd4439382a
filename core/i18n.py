"""Texts in the reader's language: English in the code, other languages from `core/locale`.

Rules for texts that a person reads (pages, command line, reports, errors and hints):

- Draw with `_("Text with {name}", name=value)`, or `ngettext("{n} lane", "{n} lanes", n)` for what is
  counted. The first argument is a literal, never an f-string, so that `make messages` can collect it.
- Write whole sentences. Never join texts from fragments: word order differs between languages.
- Where a text is made before its reader is known (an error, a stored record, a constant of a module), write
  `N_("Text with {name}", name=value)` or `N_plural(…)`. The result is a str with the English text, for logs
  and JSON, and remembers what it was made from. Call `_(error.message)` where it is drawn. Pass one as a
  value of another text as it is: `_("{lane}: {problem}", lane=name, problem=error.message)`.
- Record fields that keep such texts have the type `Text`; `core.codec` stores id and values beside the
  English.
- `_()` takes plain text too and returns what has no translation as it is, so records of any age can be drawn.
- Never call `_()` while a module is imported: the language is not known yet. Command line modules may,
  because they are imported after the language has been chosen.
- Names of engines, models, settings and metrics' abbreviations (TTFT, TPOT) stay as they are.
- Numbers with units come from `core.units`.

The language belongs to a context (`use_language`, `choose_language`), else to the session that
`find_language_with` asks, else to the process. English loads no catalogue; others are read at their first
text. Thread-safe.

Catalogues are read from their .po files, so no compiled copy can be out of date: contexts, plural forms and
texts over several lines, as gettext tools write them. Fuzzy entries are left out, because nobody has
confirmed them.
"""

import gettext
import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias

LOCALE_DIR = Path(__file__).parent / "locale"
_KEYWORD = re.compile(r'^(msgctxt|msgid_plural|msgid|msgstr)(?:\[(\d+)\])? +(".*")$')
_PLURAL = re.compile(r"plural *= *([^;]+)")


class Language(StrEnum):
    """The languages that the texts exist in."""

    ENGLISH = "en"
    CHINESE = "zh_CN"

    @property
    def own_name(self) -> str:
        """What its speakers call it."""
        return {"en": "English", "zh_CN": "简体中文"}[self.value]

    @property
    def tag(self) -> str:
        """BCP 47 tag, for browsers and HTML."""
        return self.value.replace("_", "-")


class Message(str):
    """A text that remembers its id and values. As a str it is the English text."""

    __slots__ = ("context", "id", "n", "plural", "values")

    id: str
    values: Mapping[str, "Value"]
    plural: str | None
    n: int | None
    context: str | None

    def __new__(
        cls,
        id: str,
        values: Mapping[str, object] | None = None,
        *,
        plural: str | None = None,
        n: int | None = None,
        context: str | None = None,
    ) -> "Message":
        kept = {name: _storable(value) for name, value in (values or {}).items()}
        if n is not None:
            kept["n"] = n
        template = plural if plural is not None and n != 1 else id
        self = super().__new__(cls, template.format(**kept) if kept else template)
        self.id, self.values, self.plural, self.n, self.context = id, kept, plural, n, context
        return self

    def filled(self, **values: object) -> "Message":
        """The same text with its values; for tables of texts whose values come later."""
        return Message(self.id, {**self.values, **values}, plural=self.plural, n=self.n, context=self.context)

    def text(self) -> str:
        """The text in the current language."""
        language = current_language()
        if language is Language.ENGLISH:
            return str(self)
        template = None
        if self.n is not None:
            template = catalogue(language).plural(self.id, self.n, self.context)
        else:
            template = catalogue(language).text(self.id, self.context)
        if template is None:
            template = self.plural if self.plural is not None and self.n != 1 else self.id
        return _format(template, self.values) if self.values else template

    def as_json(self) -> dict[str, object]:
        """The English text with what it is made from, for records."""
        values = {name: as_json(value) for name, value in self.values.items()}
        parts: dict[str, object] = {"text": str(self), "id": self.id}
        optional = {"values": values, "plural": self.plural, "n": self.n, "context": self.context}
        return parts | {name: part for name, part in optional.items() if part not in (None, {})}

    @classmethod
    def from_json(cls, data: object) -> "Message":
        """The text that `as_json` described; raises ValueError for anything else."""
        if not isinstance(data, dict) or not isinstance(data.get("id"), str):
            raise ValueError("should be a text or an object with the text's id")
        values = {
            name: cls.from_json(value) if isinstance(value, dict) else value
            for name, value in (data.get("values") or {}).items()
        }
        try:
            return cls(
                data["id"], values, plural=data.get("plural"), n=data.get("n"), context=data.get("context")
            )
        except (LookupError, TypeError, AttributeError) as exc:
            raise ValueError(f"its values don't fit its text: {exc!r}") from exc

    def __reduce__(self) -> tuple[object, ...]:
        return Message.from_json, (self.as_json(),)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: object, handler: object) -> dict[str, Any]:
        """Lets `core.codec` decode records; a plain dict, so that pydantic isn't imported here."""
        return {"type": "function-plain", "function": {"type": "no-info", "function": cls.from_json}}


Text: TypeAlias = str | Message
"""A field of a record that keeps a text; draw it with `_()`."""

Value: TypeAlias = str | int | float | bool | None


def _(text: str, /, **values: object) -> str:
    """The text in the current language, with its values."""
    if isinstance(text, Message):
        return (text.filled(**values) if values else text).text()
    language = current_language()
    if language is not Language.ENGLISH:
        text = catalogue(language).text(text) or text
    return _format(text, values) if values else text


def ngettext(singular: str, plural: str, n: int, /, **values: object) -> str:
    """The text in the form for `n` things, which it may show as `{n}`."""
    language = current_language()
    template = singular if n == 1 else plural
    if language is not Language.ENGLISH:
        template = catalogue(language).plural(singular, n) or template
    return _format(template, {"n": n, **values})


def pgettext(context: str, text: str, /, **values: object) -> str:
    """Like `_` for a text with several meanings; the context tells the translator which one."""
    language = current_language()
    if language is not Language.ENGLISH:
        text = catalogue(language).text(text, context) or text
    return _format(text, values) if values else text


def N_(text: str, /, **values: object) -> Message:
    """The text for later: English now, in the reader's language once `_()` draws it."""
    return Message(text, values)


def N_plural(singular: str, plural: str, n: int, /, **values: object) -> Message:
    """`ngettext` for later."""
    return Message(singular, values, plural=plural, n=n)


def match_language(tag: str | None) -> Language | None:
    """The language that a browser or a locale names (`zh-CN`, `zh`, `zh_CN.UTF-8`); None if it isn't here."""
    primary = (tag or "").replace("-", "_").partition("_")[0].partition(".")[0].lower()
    return {"en": Language.ENGLISH, "c": Language.ENGLISH, "zh": Language.CHINESE}.get(primary)


def environment_language(environ: Mapping[str, str]) -> Language:
    """The language that the locale's variables name, in POSIX's order; English for one that isn't here."""
    name = environ.get("LC_ALL") or environ.get("LC_MESSAGES") or environ.get("LANG")
    return match_language(name) or Language.ENGLISH


_chosen: ContextVar[Language | None] = ContextVar("language", default=None)
_find: Callable[[], Language | None] | None = None
_of_process = Language.ENGLISH


def current_language() -> Language:
    return _chosen.get() or _of_session() or _of_process


def _of_session() -> Language | None:
    language = _find() if _find else None
    if language:
        _chosen.set(language)  # asked once for each context
    return language


def choose_language(language: Language) -> None:
    """Texts are in this language from here on in this context."""
    _chosen.set(language)


@contextmanager
def use_language(language: Language | str) -> Iterator[None]:
    """Texts within are in this language, for this context alone; other threads keep theirs."""
    token = _chosen.set(Language(language))
    try:
        yield
    finally:
        _chosen.reset(token)


def find_language_with(find: Callable[[], Language | None]) -> None:
    """Ask `find` wherever no language was chosen; None from it means that of the process."""
    global _find
    _find = find


def set_process_language(language: Language) -> None:
    """The language of texts whose context and session have none; for programs with a single reader."""
    global _of_process
    _of_process = language


@cache
def catalogue(language: Language) -> "Catalogue":
    """The language's translations, read once; none while it has no file."""

    try:
        return read(LOCALE_DIR / language.value / "LC_MESSAGES" / "lmdyno.po")
    except FileNotFoundError:
        return Catalogue()


def _format(template: str, values: Mapping[str, object]) -> str:
    return template.format(
        **{name: value.text() if isinstance(value, Message) else value for name, value in values.items()}
    )


def _storable(value: object) -> Value:
    return value if isinstance(value, str | int | float | None) else str(value)


def as_json(text: object) -> object:
    """A text's form for records; anything else as it is."""
    return text.as_json() if isinstance(text, Message) else text


def from_json(data: object) -> Text:
    """The text that `as_json` described; raises ValueError for anything else."""
    return data if isinstance(data, str) else Message.from_json(data)


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
