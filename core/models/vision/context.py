"""Whether pictures fit a lane's context, told before anything is sent."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from core.domain.conversation import Message
from core.domain.pictures import Picture
from core.domain.specs import EngineKind, LaneSpec
from core.domain.turns import ErrorInfo, RequestPlan, RequestRecord
from core.errors import InputError
from core.models.vision.model import PictureCost, lane_vision, refusal


@dataclass(frozen=True, slots=True, kw_only=True)
class ContextUse:
    """What the pictures of a request take of a lane's context."""

    picture_tokens: int | None
    """All pictures of all messages, since each request sends the whole conversation; None if not known."""
    context_tokens: int | None
    """Prompt and answer together; None if not known."""

    @property
    def left_tokens(self) -> int | None:
        """For the text of the conversation and the answer; below 1 the request can't succeed."""
        if self.picture_tokens is None or self.context_tokens is None:
            return None
        return self.context_tokens - self.picture_tokens


def picture_cost(lane: LaneSpec, picture: Picture) -> PictureCost | None:
    """What the picture becomes for the lane's model; None where that is not known."""
    vision = lane_vision(lane)
    return vision.cost(picture.width_px, picture.height_px) if vision else None


def picture_costs(lane: LaneSpec, pictures: Iterable[Picture]) -> list[PictureCost] | None:
    """What each of the pictures becomes; None if that of any is not known."""
    costs = [picture_cost(lane, picture) for picture in pictures]
    known = [cost for cost in costs if cost]
    return known if len(known) == len(costs) else None


def as_seen(requests: Iterable[RequestPlan | RequestRecord]) -> dict[str, str]:
    """What each lane's model is given of the last message's pictures, by lane, where it is known.

    Such as `576 tokens at 336 × 336 px`; for `core.domain.fairness.before`.
    """
    seen = {}
    for request in requests:
        pictures = request.messages[-1].pictures if request.messages else ()
        if costs := picture_costs(request.lane, pictures):
            sizes = ", ".join(dict.fromkeys(f"{cost.width_px} × {cost.height_px}" for cost in costs))
            seen[request.lane.name] = f"{sum(cost.tokens for cost in costs):,} tokens at {sizes} px"
    return seen


def context_use(lane: LaneSpec, messages: Sequence[Message]) -> ContextUse:
    """How the messages' pictures fill the context of the lane; reads files, sends nothing."""
    costs = picture_costs(lane, (picture for message in messages for picture in message.pictures))
    return ContextUse(
        picture_tokens=None if costs is None else sum(cost.tokens for cost in costs),
        context_tokens=context_tokens(lane),
    )


def context_tokens(lane: LaneSpec) -> int | None:
    """The context that the lane's engine keeps; None for endpoints and where the model's config is silent."""
    if lane.model is None:
        return None
    if lane.kind is not EngineKind.TRANSFORMERS:
        return lane.settings.session_len
    vision = lane_vision(lane)
    return vision.context_tokens if vision else None


def not_sendable(lane: LaneSpec, messages: Sequence[Message]) -> ErrorInfo | None:
    """Why these messages must not go to the lane because of their pictures; None without pictures."""
    if not any(message.pictures for message in messages):
        return None
    return refusal(lane) or too_large(lane, messages)


def require_sendable(lane: LaneSpec, messages: Sequence[Message]) -> None:
    """Raises InputError with the lane's name and what `not_sendable` says of it."""
    if reason := not_sendable(lane, messages):
        raise InputError(f"{lane.name}: {reason.message}", hint=reason.hint, code=reason.code)


def too_large(lane: LaneSpec, messages: Sequence[Message]) -> ErrorInfo | None:
    """Why the pictures can't fit the lane's context; None if they fit, or if that is not known.

    The text's tokens come on top, which only the engine can count: what passes here may still be too long.
    """
    use = context_use(lane, messages)
    if use.left_tokens is None or use.left_tokens > 0:
        return None
    hint = "Send fewer or smaller pictures, or begin a new conversation"
    if lane.kind is not EngineKind.TRANSFORMERS:
        hint += ", or raise session_len"
    return ErrorInfo(
        "pictures-too-large",
        f"The pictures take {use.picture_tokens:,} tokens; {lane.name} has a context of "
        f"{use.context_tokens:,}, text and answer included",
        f"{hint}.",
    )
