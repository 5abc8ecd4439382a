"""What images take of a lane's context, in words: before a turn is sent, and for each answer."""

from collections.abc import Sequence
from itertools import groupby

from core import units
from core.domain.conversation import Message
from core.domain.specs import LaneSpec
from core.domain.turns import Phase, RequestRecord, TurnPlan
from core.models.vision.context import context_tokens, context_use, image_costs, require_sendable
from core.models.vision.model import ImageCost

_UNKNOWN = "size and tokens are up to the server"


def counted(images: int) -> str:
    """`1 image`, `3 images`."""
    return "1 image" if images == 1 else f"{images} images"


def refuse_misfits(plan: TurnPlan) -> None:
    """Raise InputError if a lane of the plan can't take the images that it would be sent."""
    for request in plan.requests:
        require_sendable(request.lane, request.messages)


def preview(lane: LaneSpec, messages: Sequence[Message]) -> str | None:
    """What the lane would make of the last message's images, and how much context all of them leave.

    None where only the server knows.
    """
    costs = image_costs(lane, messages[-1].images)
    if costs is None:
        return None
    text = f"{_sizes(costs)}, {_tokens(costs)}"
    use = context_use(lane, messages)
    if use.left_tokens is None:
        return text
    if use.left_tokens < 1:
        return f"{text}: **too much for its context of {units.count(use.context_tokens)}**"
    return f"{text}, leaves {units.count(use.left_tokens)} of {units.count(use.context_tokens)}"


def given(record: RequestRecord) -> str:
    """What a lane was given for its answer, and what of its context is left.

    A request that ended before it was sent gave its lane nothing.
    """
    if record.timing is None:
        return f"{counted(record.image_count)} not sent"
    images = [image for message in record.messages for image in message.images]
    costs = image_costs(record.lane, images)
    made = _UNKNOWN if costs is None else f"{_sizes(costs)}, {_tokens(costs)}"
    parts = [f"Given {counted(len(images))}: {made}"]
    if record.phase is Phase.DONE and record.prompt_tokens is not None:
        parts.append(_context(record.lane, record.prompt_tokens + (record.output_tokens or 0)))
    return " · ".join(parts)


def _context(lane: LaneSpec, used_tokens: int) -> str:
    available = context_tokens(lane)
    if available is None:
        return f"context: {units.count(used_tokens)} used"
    left = max(0, available - used_tokens)
    return f"context: {units.count(used_tokens)} used, {units.count(left)} left"


def _tokens(costs: Sequence[ImageCost]) -> str:
    return f"{units.count(sum(cost.tokens for cost in costs))} image tokens"


def _sizes(costs: Sequence[ImageCost]) -> str:
    """`336 × 336 px`, or for several `2 of 336 × 336 px, 640 × 480 px`."""
    parts = []
    for (width_px, height_px), alike in groupby(costs, lambda cost: (cost.width_px, cost.height_px)):
        number = len(list(alike))
        parts.append((f"{number} of " if number > 1 else "") + f"{width_px} × {height_px} px")
    return ", ".join(parts)
