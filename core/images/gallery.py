"""The images that come with LMDyno: drawn scenes with questions and their answers, and a few photographs.

`gallery.toml` beside the files says for each who made it, under which licence, and what may be asked of it.
"""

import re
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import Any

from core.config.toml_source import IN_QUOTES, KeyPath, TomlSource
from core.domain.specs import one_of
from core.i18n import N_, Message
from core.settings import PROJECT_ROOT

GALLERY_DIR = PROJECT_ROOT / "assets" / "gallery"

_NAME = re.compile(r"[a-z0-9][a-z0-9-]*")
_TEXTS = ("title", "file", "kind", "licence", "source")
_KEYS = (*_TEXTS, "note", "questions")
_QUESTION_KEYS = ("question", "answers")


class GalleryKind(StrEnum):
    SCENE = "scene"
    """Drawn; the demo vision model knows this kind."""
    PHOTO = "photo"
    """Real; for models of one's own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpectedAnswer:
    """A question and the words of which an answer has to hold one."""

    question: str
    answers: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class GalleryImage:
    """An image to pick; it goes through `sanitise` like any other."""

    name: str
    title: str
    """What it shows, fit for an alternative text."""
    path: Path
    kind: GalleryKind
    licence: str
    source: str
    note: str = ""
    """What to know before asking; "" if nothing."""
    questions: tuple[ExpectedAnswer, ...] = ()


@cache
def gallery(folder: Path = GALLERY_DIR) -> tuple[GalleryImage, ...]:
    """All images in the file's order; read once a process.

    Raises:
        ConfigError: a mistake in `gallery.toml`, or an image that is not there.
    """
    source = TomlSource.read(folder / "gallery.toml")
    for key in source.values:
        if key != "images":
            raise source.unknown_key((key,), ("images",), N_("{key} is not a key of the gallery."))
    tables = _typed(source, ("images",), source.values.get("images"), dict)
    return tuple(_image(source, folder, name) for name in tables)


def _image(source: TomlSource, folder: Path, name: str) -> GalleryImage:
    place: KeyPath = ("images", name)
    table = _typed(source, place, source.values["images"][name], dict)
    if not _NAME.fullmatch(name):
        raise source.error(
            place, N_("{key} is not a valid name."), N_("Use lowercase letters, digits, and hyphens.")
        )
    for key in table:
        if key not in _KEYS:
            raise source.unknown_key((*place, key), _KEYS, N_("{key} is not a key of an image."))
    texts = {key: _text(source, (*place, key), table.get(key)) for key in _TEXTS}
    if texts["kind"] not in tuple(GalleryKind):
        raise source.error((*place, "kind"), N_("{key} is unknown."), one_of(tuple(GalleryKind)).hint)
    path = folder / texts["file"]
    if path.name != texts["file"] or not path.is_file():
        raise source.error(
            (*place, "file"),
            N_("{key} names no file next to gallery.toml."),
            N_("Check {path}.", path=folder),
        )
    questions = _typed(source, (*place, "questions"), table.get("questions", []), list)
    return GalleryImage(
        name=name,
        title=texts["title"],
        path=path,
        kind=GalleryKind(texts["kind"]),
        licence=texts["licence"],
        source=texts["source"],
        note=_text(source, (*place, "note"), table["note"]) if "note" in table else "",
        questions=tuple(_question(source, (*place, "questions"), entry) for entry in questions),
    )


def _question(source: TomlSource, place: KeyPath, entry: object) -> ExpectedAnswer:
    table = _typed(source, place, entry, dict)
    for key in table:
        if key not in _QUESTION_KEYS:
            raise source.unknown_key((*place, key), _QUESTION_KEYS, N_("{key} is not a key of a question."))
    question = _text(source, (*place, "question"), table.get("question"))
    answers = _typed(source, (*place, "answers"), table.get("answers"), list)
    if not answers:
        raise source.error(
            (*place, "answers"), _EMPTY, N_("Enter at least one answer that counts as correct.")
        )
    words = tuple(_text(source, (*place, "answers"), answer) for answer in answers)
    return ExpectedAnswer(question=question, answers=words)


def _text(source: TomlSource, place: KeyPath, value: object) -> str:
    text = _typed(source, place, value, str)
    if not text.strip():
        raise source.error(place, _EMPTY, IN_QUOTES)
    return str(text)


def _typed(source: TomlSource, place: KeyPath, value: object, kind: type) -> Any:  # noqa: ANN401
    if value is None:
        raise source.error(place, N_("{key} is missing."), _FORMS[kind])
    if not isinstance(value, kind):
        raise source.error(place, N_("{key} has the wrong type."), _FORMS[kind])
    return value


_EMPTY = N_("{key} is empty.")
_FORMS: dict[type, Message] = {
    dict: N_("Write a table of keys and values."),
    list: N_('Write a list, such as ["red", "green"].'),
    str: IN_QUOTES,
}
