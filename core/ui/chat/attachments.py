"""The images chosen for the next prompt: taken in at once, checked and stored before anything is sent."""

from collections.abc import Iterable
from typing import Protocol

from core.domain.images import MAX_IMAGES, StoredImage
from core.domain.turns import ErrorInfo
from core.errors import InputError, LMDynoError
from core.i18n import N_
from core.images.sanitise import sanitise
from core.ui.chat import session as chat_session
from core.ui.chat.conversation_page import ConversationPage
from core.ui.shared import resources


class File(Protocol):
    """What a browser sent."""

    name: str

    def getvalue(self) -> bytes: ...


def add_files(page: ConversationPage, files: Iterable[File]) -> None:
    """Attach files; one that can't be used becomes a problem, the others stay."""
    for file in files:
        _add(page, file.getvalue(), file.name)


def add_data(page: ConversationPage, data: bytes, name: str) -> None:
    chat_session.chat(page).problems = ()
    _add(page, data, name)


def forget_problems(page: ConversationPage) -> None:
    chat_session.chat(page).problems = ()


def remove(page: ConversationPage, image: StoredImage) -> None:
    chat = chat_session.chat(page)
    chat.problems = ()
    chat.attachments = tuple(other for other in chat.attachments if other.sha256 != image.sha256)


def _add(page: ConversationPage, data: bytes, name: str) -> None:
    chat = chat_session.chat(page)
    try:
        if len(chat.attachments) >= MAX_IMAGES:
            raise InputError(
                N_("{name} is one image too many: a question takes {most}", name=name, most=MAX_IMAGES),
                hint=N_("Remove another image first."),
                code="too-many-images",
            )
        image = resources.image_store().put(sanitise(data, name=name))
    except LMDynoError as error:
        chat.problems = (*chat.problems, ErrorInfo.of(error))
        return
    if all(image.sha256 != other.sha256 for other in chat.attachments):
        chat.attachments = (*chat.attachments, image)
