"""The pictures chosen for the next prompt: taken in at once, checked and stored before anything is sent."""

from collections.abc import Iterable
from typing import Protocol

from core.domain.pictures import MAX_PICTURES, Picture
from core.domain.turns import ErrorInfo
from core.errors import InputError, LMDynoError
from core.pictures.intake import take_in
from core.ui.chat import session as chat_session
from core.ui.chat.room import Room
from core.ui.shared import resources


class File(Protocol):
    """What a browser sent."""

    name: str

    def getvalue(self) -> bytes: ...


def add_files(room: Room, files: Iterable[File]) -> None:
    """Take files into the tray; one that can't be used becomes a problem, the others stay."""
    for file in files:
        _add(room, file.getvalue(), file.name)


def add_data(room: Room, data: bytes, name: str) -> None:
    chat_session.chat(room).problems = ()
    _add(room, data, name)


def forget_problems(room: Room) -> None:
    chat_session.chat(room).problems = ()


def remove(room: Room, picture: Picture) -> None:
    chat = chat_session.chat(room)
    chat.problems = ()
    chat.tray = tuple(other for other in chat.tray if other.sha256 != picture.sha256)


def _add(room: Room, data: bytes, name: str) -> None:
    chat = chat_session.chat(room)
    try:
        if len(chat.tray) >= MAX_PICTURES:
            raise InputError(
                f"{name} is one picture too many: there are {MAX_PICTURES} already",
                hint="Remove one first; a question takes no more.",
                code="too-many-pictures",
            )
        picture = resources.shelf().put(take_in(data, name=name))
    except LMDynoError as error:
        chat.problems = (*chat.problems, ErrorInfo.of(error))
        return
    if all(picture.sha256 != other.sha256 for other in chat.tray):
        chat.tray = (*chat.tray, picture)
