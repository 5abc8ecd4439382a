"""The pictures that come with LMDyno: drawn scenes with questions and their answers, and a few photographs.

`gallery.toml` beside the files says for each who made it, under which licence, and what may be asked of it.
"""

import re
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import Any

from core.config.toml_source import KeyPath, TomlSource
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
class GalleryPicture:
    """A picture to pick; it goes through `take_in` like any other."""

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
def gallery(folder: Path = GALLERY_DIR) -> tuple[GalleryPicture, ...]:
    """All pictures in the file's order; read once a process.

    Raises:
        ConfigError: a mistake in `gallery.toml`, or a picture that is not there.
    """
    source = TomlSource.read(folder / "gallery.toml")
    for key in source.values:
        if key != "pictures":
            raise source.unknown_key((key,), ("pictures",), "the gallery")
    tables = _typed(source, ("pictures",), source.values.get("pictures"), dict, "a table [pictures.NAME]")
    return tuple(_picture(source, folder, name) for name in tables)


def _picture(source: TomlSource, folder: Path, name: str) -> GalleryPicture:
    place: KeyPath = ("pictures", name)
    table = _typed(source, place, source.values["pictures"][name], dict, "a table")
    if not _NAME.fullmatch(name):
        raise source.error(place, "is not a name", "Use small letters, digits and hyphens.")
    for key in table:
        if key not in _KEYS:
            raise source.unknown_key((*place, key), _KEYS, "a picture")
    texts = {key: _text(source, (*place, key), table.get(key)) for key in _TEXTS}
    if texts["kind"] not in tuple(GalleryKind):
        raise source.error((*place, "kind"), "is unknown", f"Allowed: {', '.join(GalleryKind)}.")
    path = folder / texts["file"]
    if path.name != texts["file"] or not path.is_file():
        raise source.error((*place, "file"), "names no file beside gallery.toml", f"Look into {folder}.")
    questions = _typed(source, (*place, "questions"), table.get("questions", []), list, "a list")
    return GalleryPicture(
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
    table = _typed(source, place, entry, dict, 'a list of { question = "…", answers = ["…"] }')
    for key in table:
        if key not in _QUESTION_KEYS:
            raise source.unknown_key((*place, key), _QUESTION_KEYS, "a question")
    question = _text(source, (*place, "question"), table.get("question"))
    answers = _typed(source, (*place, "answers"), table.get("answers"), list, "a list of words")
    if not answers:
        raise source.error((*place, "answers"), "is empty", "Give at least one answer that counts as right.")
    words = tuple(_text(source, (*place, "answers"), answer) for answer in answers)
    return ExpectedAnswer(question=question, answers=words)


def _text(source: TomlSource, place: KeyPath, value: object) -> str:
    text = _typed(source, place, value, str, "text in quotes")
    if not text.strip():
        raise source.error(place, "is empty", "Write something between the quotes.")
    return str(text)


def _typed(source: TomlSource, place: KeyPath, value: object, kind: type, wanted: str) -> Any:  # noqa: ANN401
    if value is None:
        raise source.error(place, "is missing", f"It has to be {wanted}.")
    if not isinstance(value, kind):
        raise source.error(place, "has the wrong type", f"It has to be {wanted}.")
    return value
