"""What a request asks: messages with images, the history that each lane sees, and how tokens are sampled.

An image is known by its hash and sizes here; no image format is known and no file read. A dialect
(`core.chat_api.dialects`) translates the sampling settings so that they mean the same to every engine.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from core.errors import InputError
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """Sampling settings of one request; raises InputError for values no engine accepts."""

    temperature: float = 0.0
    """0 is greedy: the most likely token each time; then top_p, top_k and seed have no effect."""
    top_p: float = 1.0
    top_k: int = 0
    """0 leaves all tokens in."""
    repetition_penalty: float = 1.0
    seed: int | None = None
    max_tokens: int = 512
    fixed_length: bool = False
    """Generate exactly `max_tokens`, past any end-of-sequence token."""

    def __post_init__(self) -> None:
        _within("temperature", self.temperature, 0, 2)
        if not 0 < self.top_p <= 1:
            raise InputError(
                N_("{key} is {value}.", key="top_p", value=self.top_p),
                hint=N_("Choose a value greater than 0 and at most 1."),
            )
        _within("top_k", self.top_k, 0, 1000)
        _within("repetition_penalty", self.repetition_penalty, 0.5, 2)
        _within("max_tokens", self.max_tokens, 1, 131_072)

    @property
    def greedy(self) -> bool:
        return self.temperature == 0


def _within(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise InputError(
            N_("{key} is {value}.", key=name, value=value),
            hint=N_("Choose a value from {low} to {high}.", low=f"{low:g}", high=f"{high:g}"),
        )
