"""A lane's context, and what images and texts take of it, told before anything is sent.

What images take is computed exactly and decides. Text is estimated: exact counts need the model's chat
template, so the estimate serves for a warning and refuses nothing. Where tokens of plain texts count, as in
load tests, or for a server that doesn't count itself, the lane's own tokenizer counts them; only processes
that measure load it.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from core import units
from core.domain.conversation import Message, StoredImage
from core.domain.specs import EngineKind, LaneSpec
from core.domain.turns import ErrorInfo, RequestPlan, RequestRecord
from core.errors import InputError
from core.i18n import N_, Text
from core.models.checkpoint import checkpoint_folder
from core.models.model_config import read_config
from core.models.vision import ImageCost, lane_vision, refusal

_ASCII_CHARS_PER_TOKEN = 4.0
"""Of English; code and other alphabets have fewer."""
_OTHER_CHARS_PER_TOKEN = 1.5
"""Of Chinese with today's vocabularies."""
_CANDIDATES = 6000


@dataclass(frozen=True, slots=True, kw_only=True)
class ContextUse:
    """The part of a lane's context that the images of a request take."""

    image_tokens: int | None
    """All images of all messages, since each request sends the whole conversation; None if not known."""
    context_tokens: int | None
    """Prompt and answer together; None if not known."""

    @property
    def left_tokens(self) -> int | None:
        """For the text of the conversation and the answer; below 1 the request can't succeed."""
        if self.image_tokens is None or self.context_tokens is None:
            return None
        return self.context_tokens - self.image_tokens


def image_cost(lane: LaneSpec, image: StoredImage) -> ImageCost | None:
    """Return what the image becomes for the lane's model; None where that is not known."""
    vision = lane_vision(lane)
    return vision.cost(image.width_px, image.height_px) if vision else None


def image_costs(lane: LaneSpec, images: Iterable[StoredImage]) -> list[ImageCost] | None:
    """Return what each of the images becomes; None if that of any is not known."""
    costs = [image_cost(lane, image) for image in images]
    known = [cost for cost in costs if cost]
    return known if len(known) == len(costs) else None


def as_seen(requests: Iterable[RequestPlan | RequestRecord]) -> dict[str, Text]:
    """Return what each lane's model is given of the last message's images, by lane, where it is known.

    Such as `576 tokens at 336 × 336 px`; for `core.domain.fairness.before`.
    """
    seen: dict[str, Text] = {}
    for request in requests:
        images = request.messages[-1].images if request.messages else ()
        if costs := image_costs(request.lane, images):
            sizes = ", ".join(dict.fromkeys(f"{cost.width_px} × {cost.height_px}" for cost in costs))
            seen[request.lane.name] = N_(
                "{n} tokens at {sizes} px", n=units.count(sum(cost.tokens for cost in costs)), sizes=sizes
            )
    return seen


def context_use(lane: LaneSpec, messages: Sequence[Message]) -> ContextUse:
    """Return how the messages' images fill the context of the lane; reads files, sends nothing."""
    costs = image_costs(lane, (image for message in messages for image in message.images))
    return ContextUse(
        image_tokens=None if costs is None else sum(cost.tokens for cost in costs),
        context_tokens=vision_context_tokens(lane),
    )


def vision_context_tokens(lane: LaneSpec) -> int | None:
    """The context that the lane's engine keeps; None for endpoints and where the model's config is silent."""
    if lane.model is None:
        return None
    if lane.kind is not EngineKind.TRANSFORMERS:
        return lane.settings.session_len
    vision = lane_vision(lane)
    return vision.context_tokens if vision else None


def not_sendable(lane: LaneSpec, messages: Sequence[Message]) -> ErrorInfo | None:
    """Return why these messages must not go to the lane because of their images; None without images."""
    if not any(message.images for message in messages):
        return None
    return refusal(lane) or too_large(lane, messages)


def require_sendable(lane: LaneSpec, messages: Sequence[Message]) -> None:
    """Raises InputError with the lane's name and what `not_sendable` says of it."""
    if reason := not_sendable(lane, messages):
        raise InputError(f"{lane.name}: {reason.message}", hint=reason.hint, code=reason.code)


def too_large(lane: LaneSpec, messages: Sequence[Message]) -> ErrorInfo | None:
    """Return why the images can't fit the lane's context; None if they fit, or if that is not known.

    The text's tokens come on top, which only the engine can count: what passes here may still be too long.
    """
    use = context_use(lane, messages)
    if use.left_tokens is None or use.left_tokens > 0:
        return None
    if lane.kind is EngineKind.TRANSFORMERS:
        hint = N_("Send fewer or smaller images, or start a new conversation.")
    else:
        hint = N_("Send fewer or smaller images, start a new conversation, or raise session_len.")
    return ErrorInfo(
        "images-too-large",
        N_(
            "The images take {n} tokens, but {lane} has a context of {context} tokens for images, text, and "
            "answer.",
            n=units.count(use.image_tokens),
            lane=lane.name,
            context=units.count(use.context_tokens),
        ),
        hint,
    )


def estimated_tokens(messages: Sequence[Message]) -> int:
    """Roughly how many tokens the messages' texts are; images not counted."""
    chars = sum(len(message.content) for message in messages)
    ascii_chars = sum(len(message.content.encode("ascii", "ignore")) for message in messages)
    return round(ascii_chars / _ASCII_CHARS_PER_TOKEN + (chars - ascii_chars) / _OTHER_CHARS_PER_TOKEN)


def context_tokens(lane: LaneSpec) -> int | None:
    """The tokens that prompt and answer may have together; None for endpoints and where it isn't known."""
    known = vision_context_tokens(lane)
    if known is not None or lane.model is None or lane.kind is not EngineKind.TRANSFORMERS:
        return known
    try:
        return read_config(checkpoint_folder(lane.model.checkpoint)).whole("max_position_embeddings")
    except InputError:
        return None


def exceeded_context(lane: LaneSpec, messages: Sequence[Message]) -> int | None:
    """The lane's context, if the messages probably don't fit it; else None."""
    context = context_tokens(lane)
    return context if context is not None and estimated_tokens(messages) >= context else None


@lru_cache(maxsize=8)
def tokenizer_in(folder: str) -> "LaneTokenizer":
    """The tokenizer of a folder, read once. Raises InputError (`no-tokenizer`)."""
    return LaneTokenizer(Path(folder))


class LaneTokenizer:
    """`tokenizer.json` of a checkpoint. Safe for several threads."""

    def __init__(self, folder: Path) -> None:
        """Raises InputError (`no-tokenizer`) if the folder has none that can be read."""
        from tokenizers import Tokenizer

        file = folder / "tokenizer.json"
        try:
            self._tokenizer = Tokenizer.from_file(str(file))
        # tokenizers raises a plain Exception for every kind of unreadable file.
        except Exception as exc:
            raise InputError(
                N_("Can't read the tokenizer {path}: {reason}", path=file, reason=exc),
                hint=N_("Checkpoints with a fast tokenizer have this file."),
                code="no-tokenizer",
            ) from exc

    def count(self, text: str) -> int:
        """Tokens of the text, without those that a chat template adds."""
        return len(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def plain_words(self) -> tuple[str, ...]:
        """English-looking words that are one token each, at the start of a text and after a space.

        In a stable order and from all over the alphabet; any of them joined by spaces are as many tokens.
        """
        candidates = set()
        for token in self._tokenizer.get_vocab():
            word = token.lstrip("Ġ▁")
            if word != token and word.isascii() and word.isalpha() and word.islower() and len(word) > 1:
                candidates.add(word)
        words = sorted(candidates)
        words = words[:: max(1, len(words) // _CANDIDATES)]
        alone = self._counts(words)
        inside = self._counts([f"the {word} the" for word in words])
        around = self.count("the the")
        return tuple(
            word for word, one, more in zip(words, alone, inside, strict=True) if one == 1 == more - around
        )

    def _counts(self, texts: list[str]) -> list[int]:
        return [len(found.ids) for found in self._tokenizer.encode_batch(texts, add_special_tokens=False)]
