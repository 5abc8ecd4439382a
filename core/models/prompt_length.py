"""Estimate whether a conversation's text is too long for a lane, before anything is sent.

Exact counts need the model's tokenizer and chat template, which the dashboard doesn't load. The estimate
serves for a warning and refuses nothing.
"""

from collections.abc import Sequence

from core.domain.conversation import Message
from core.domain.specs import EngineKind, LaneSpec
from core.errors import InputError
from core.models.checkpoint import checkpoint_folder
from core.models.model_config import read_config
from core.models.vision.context import context_tokens as vision_context_tokens

_ASCII_CHARS_PER_TOKEN = 4.0
"""Of English; code and other alphabets have fewer."""
_OTHER_CHARS_PER_TOKEN = 1.5
"""Of Chinese with today's vocabularies."""


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
