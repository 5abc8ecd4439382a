"""Conversations: messages with images, the history that each lane sees, and prompts to begin with.

An image is known by its hash and sizes here; no image format is known and no file read.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from core.i18n import N_, Text

MAX_IMAGES = 8
"""Images in one turn."""
_SHA256 = re.compile(r"[0-9a-f]{64}")
EXAMPLES: dict[Text, str] = {
    N_("Capital of Japan"): "What is the capital of Japan?",
    N_("Explain the KV cache"): (
        "Explain in three short bullet points what the KV cache of a transformer does."
    ),
    N_("Python code"): "Write a Python function that returns the n-th Fibonacci number, with a docstring.",
    N_("A formula"): "What is the Pythagorean theorem?",
    N_("A longer text"): "Explain what a neural network is.",
    "水的化学式": "水的化学式是什么？",
}
"""Prompts in English and Chinese: a fact, Markdown, code, mathematics, a longer text.

The demo model is sure of how it answers each of them (`benchmarks/prompt_margins.py`), so lanes of different
number formats and machines begin alike. That is not so for translations, so prompts are sent as they stand.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredImage:
    """A checked image that messages refer to; its bytes lie in the image store under their hash."""

    sha256: str
    """Hex, lower case, of the bytes as stored and sent: re-encoded, not as they came in."""
    media_type: str
    """image/png or image/jpeg."""
    width_px: int
    height_px: int
    """After the camera's rotation was applied."""
    size_bytes: int
    """Of the stored file; a data URL is about a third longer."""
    name: str = ""
    """What a person called it; text only, never used as a path."""


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


def named_images(texts: Iterable[str]) -> frozenset[str]:
    """The hashes of the images that texts such as stored plans name; whatever looks like one counts."""
    return frozenset(sha256 for text in texts for sha256 in _SHA256.findall(text))
