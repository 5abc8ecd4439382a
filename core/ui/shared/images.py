"""Images on a page: shown small, and in words what they take of a lane's context."""

from collections.abc import Sequence
from itertools import groupby

import streamlit as st

from core import units
from core.domain.conversation import Message, StoredImage
from core.domain.specs import LaneSpec
from core.domain.turns import Phase, RequestRecord, TurnPlan
from core.i18n import _, ngettext
from core.models.context import context_use, image_costs, require_sendable, vision_context_tokens
from core.models.vision import ImageCost
from core.ui.shared import resources
from core.ui.shared.components import escape

SIDE_PX = 768
"""Longer side of the image sent to the browser: the full-screen view shows more than the thumbnail."""
THUMBNAIL_PX = 120


def counted(images: int) -> str:
    """`1 image`, `3 images`."""
    return ngettext("{n} image", "{n} images", images)


def refuse_misfits(plan: TurnPlan) -> None:
    """Raise InputError if a lane of the plan can't take the images that it would be sent."""
    for request in plan.requests:
        require_sendable(request.lane, request.messages)


def preview(lane: LaneSpec, messages: Sequence[Message]) -> str | None:
    """Size and tokens of the last message's images for the lane, and how much context all of them leave.

    None where only the server knows.
    """
    costs = image_costs(lane, messages[-1].images)
    if costs is None:
        return None
    sizes, tokens = _sizes(costs), _tokens(costs)
    use = context_use(lane, messages)
    context = units.count(use.context_tokens)
    if use.left_tokens is None:
        return _("{sizes}: {tokens} tokens", sizes=sizes, tokens=tokens)
    if use.left_tokens < 1:
        return _(
            "{sizes}: {tokens} tokens, **more than its context of {context}**",
            sizes=sizes,
            tokens=tokens,
            context=context,
        )
    return _(
        "{sizes}: {tokens} tokens, leaving {left} of {context}",
        sizes=sizes,
        tokens=tokens,
        left=units.count(use.left_tokens),
        context=context,
    )


def given(record: RequestRecord) -> str:
    """The images that a lane got for its answer, and how much of its context is left.

    A request that ended before it was sent gave its lane nothing.
    """
    if record.timing is None:
        return ngettext("{n} image, not sent", "{n} images, not sent", record.image_count)
    images = [image for message in record.messages for image in message.images]
    costs = image_costs(record.lane, images)
    if costs is None:
        number = ngettext("{n} image", "{n} images", len(images))
        parts = [_("{images}: the server decides on size and tokens", images=number)]
    else:
        parts = [
            ngettext(
                "{n} image, {sizes}: {tokens} tokens",
                "{n} images, {sizes}: {tokens} tokens",
                len(images),
                sizes=_sizes(costs),
                tokens=_tokens(costs),
            )
        ]
    if record.phase is Phase.DONE and record.prompt_tokens is not None:
        parts.append(_context(record.lane, record.prompt_tokens + (record.output_tokens or 0)))
    return " · ".join(parts)


def _context(lane: LaneSpec, used_tokens: int) -> str:
    available = vision_context_tokens(lane)
    used = units.count(used_tokens)
    if available is None:
        return _("context: {used} used", used=used)
    left = units.count(max(0, available - used_tokens))
    return _("context: {used} used, {left} left", used=used, left=left)


def _tokens(costs: Sequence[ImageCost]) -> str:
    return units.count(sum(cost.tokens for cost in costs))


def _sizes(costs: Sequence[ImageCost]) -> str:
    """`336 × 336 px each` if all are alike, else such as `336 × 336 px (2), 640 × 480 px (1)`."""
    groups = [
        (f"{width_px} × {height_px} px", len(list(alike)))
        for (width_px, height_px), alike in groupby(costs, lambda cost: (cost.width_px, cost.height_px))
    ]
    if len(groups) == 1:
        size, number = groups[0]
        return size if number == 1 else _("{size} each", size=size)
    return ", ".join(f"{size} ({number})" for size, number in groups)


def show_images(images: Sequence[StoredImage], *, width_px: int = THUMBNAIL_PX) -> None:
    """A row of thumbnails; nothing for no images."""
    if not images:
        return
    with st.container(horizontal=True, gap="small"):
        for image in images:
            with st.container(width=width_px, gap="xsmall"):
                show_image(image)


def show_image(image: StoredImage) -> None:
    """One image as wide as its place; a placeholder if its file is gone or damaged."""
    data = resources.image_store().thumbnail(image, SIDE_PX)
    if data is None:
        with st.container(border=True):
            missing = _("{image}: the file is missing", image=escape(image.name or _("Image")))
            st.caption(f":material/broken_image: {missing}")
        return
    st.image(data, width="stretch", alt=describe(image))


def describe(image: StoredImage) -> str:
    """`cat.png, 640 × 480 pixels`."""
    return _(
        "{image}, {width} × {height} pixels",
        image=image.name or _("Image"),
        width=image.width_px,
        height=image.height_px,
    )


def facts(image: StoredImage) -> str:
    """Name, size and type, in Markdown."""
    return escape(f"{describe(image)}, {image.media_type.removeprefix('image/').upper()}")
