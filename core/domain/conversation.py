"""What was said: messages, and the history that each lane sees."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from core.domain.images import StoredImage


class Role(StrEnum):
    SYSTEM = "system"
    USER = "user"
    ASSISTANT = "assistant"


@dataclass(frozen=True, slots=True)
class Message:
    role: Role
    content: str
    images: tuple[StoredImage, ...] = ()
    """Shown before the text, in this order."""


@dataclass(frozen=True, slots=True)
class Exchange:
    """A prompt of an earlier turn and one lane's answer to it ("" if it gave none)."""

    prompt: str
    answer: str
    images: tuple[StoredImage, ...] = ()
    """Those of the prompt."""


def messages_for(
    prompt: str,
    *,
    system: str = "",
    earlier: Iterable[Exchange] = (),
    images: tuple[StoredImage, ...] = (),
) -> tuple[Message, ...]:
    """The messages one lane is sent: its own history, without turns that it did not answer.

    Earlier images are sent again with their prompts, since an engine remembers nothing between requests.
    """
    messages = [Message(Role.SYSTEM, system)] if system.strip() else []
    for exchange in earlier:
        if exchange.answer:
            messages += [
                Message(Role.USER, exchange.prompt, exchange.images),
                Message(Role.ASSISTANT, exchange.answer),
            ]
    messages.append(Message(Role.USER, prompt, images))
    return tuple(messages)
