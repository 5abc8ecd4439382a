"""Small things that several pages draw: an error, a lane's name in its colour, text as it is, tabs, images.

Parts of a page that aren't always there have a fixed place (`Slots`). Images are shown small, and in words
what they take of a lane's context.
"""

import re
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from types import TracebackType
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import streamlit as st
from streamlit.delta_generator import DeltaGenerator
from streamlit.elements.lib.mutable_tab_container import TabContainer

from core import units
from core.charts.colors import lane_color
from core.domain.conversation import Message, StoredImage
from core.domain.specs import EngineKind, LaneSpec, Weights
from core.domain.turns import ErrorInfo, Phase, RequestRecord, TurnPlan
from core.errors import LMDynoError
from core.i18n import N_, _, ngettext
from core.models.context import context_use, image_costs, require_sendable, vision_context_tokens
from core.models.vision import ImageCost
from core.ui.shared import resources

if TYPE_CHECKING:
    from core.charts.load import Figure

KIND_NAMES = {
    EngineKind.TRANSFORMERS: "Transformers",
    EngineKind.TURBOMIND: "TurboMind",
    EngineKind.AWQ: "TurboMind AWQ",
    EngineKind.PYTORCH: "LMDeploy PyTorch",
    EngineKind.ENDPOINT: N_("Endpoint"),
}

_WEIGHT_NAMES = {
    Weights.CHECKPOINT: None,
    # transformers unpacks a Llama model's GGUF blocks when it loads them.
    Weights.GGUF: N_("weights from a 4-bit GGUF, unpacked"),
    Weights.AWQ: "W4A16",
}

_MARKS = re.compile(r"[\\`*_\[\]<>$~|&#:]")
_LINE_START = re.compile(r"^( {0,3})(?:([-+=])|(\d{1,9})([.)]))", re.M)
_INDENT = re.compile(r"(?<=\n)[ \t]+")
_CODE_INDENT = re.compile(r"\A(?: {4,}| *\t)[ \t]*")
"""Indentation that would make the text a code block."""
_NAMED = re.compile(r":(?=material/|[\w+-]+:)", re.A)
"""The colon before an emoji's or icon's name."""
_BEFORE_LINK = re.compile(r"!\Z")
"""With a link behind it, a mark like this makes an image."""
_ARROW = re.compile(r"(?<!\S)(?:<->|->|<-|--|>=|<=|~=)(?!\S)")
_WWW = re.compile(r"\b(www)\.", re.I)
_SPLIT = "\0"
"""Marks the character after it; never part of a text, since parsers and browsers replace it."""

SIDE_PX = 768
"""Longer side of the image sent to the browser: the full-screen view shows more than the thumbnail."""
THUMBNAIL_PX = 120


def show_error(error: LMDynoError | ErrorInfo) -> None:
    """The error's message, its hint, and its code to search for."""
    st.error(_told(error), icon=":material/error:")


def show_warning(problem: LMDynoError | ErrorInfo) -> None:
    """The same for what keeps nothing from going on."""
    st.warning(_told(problem), icon=":material/warning:")


@contextmanager
def errors_as_toasts() -> Iterator[None]:
    """Show an error in passing, for callbacks; what stands below the call that failed is not done."""
    try:
        yield
    except LMDynoError as error:
        st.toast(in_a_line(error), icon=":material/error:")


def lane_label(name: str) -> str:
    """Markdown: a square in the lane's colour and its name, which stay on one line."""
    color = color_of(name)
    return f':color[■]{{foreground="{color}"}}\N{NO-BREAK SPACE}**{escape(name)}**'


def color_of(name: str) -> str:
    return lane_color(name, [lane.name for lane in resources.lanes().lanes])


_MODEL_CHARS = 80
"""More than the names of models on hubs; a server may call one as it likes."""


def describe_lane(lane: LaneSpec) -> str:
    """Engine, weights and place of a lane in one line."""
    if lane.endpoint:
        model = lane.endpoint.model
        if model and len(model) > _MODEL_CHARS:
            model = model[: _MODEL_CHARS - 1] + "…"
        parts = [_(KIND_NAMES[lane.kind]), model, urlsplit(lane.endpoint.url).netloc]
    else:
        model = lane.model.name if lane.model else None
        weights = _WEIGHT_NAMES[lane.weights]
        parts = [_(KIND_NAMES[lane.kind]), model, weights and _(weights), lane.settings.dtype]
        if lane.settings.tp > 1:
            parts.append(f"tp {lane.settings.tp}")
        if lane.settings.replicas > 1:
            parts.append(_("{n} replicas", n=lane.settings.replicas))
    return " · ".join(escape(part) for part in parts if part and part != "auto")


def escape(text: str) -> str:
    """Text of people, files or servers, so that Markdown shows it character by character.

    White space at the start of later lines apart. Streamlit adds to CommonMark: colour and badge directives,
    emoji and icon names, arrows for `<-` and dashes for `--`. Some of these are looked for after backslashes
    are resolved, in each stretch of text by itself, so a backslash alone doesn't stop them. A directive
    without any effect (`:color[…]`) around one character does: it cuts the stretch in two.
    """
    text = _CODE_INDENT.sub(" ", _INDENT.sub("", text.replace(_SPLIT, "\ufffd")))
    text = _ARROW.sub(lambda match: f"{match[0][:-2]}{_SPLIT}{match[0][-2:]}", text)
    text = _NAMED.sub(f"{_SPLIT}:", text)
    parts = text.split(_SPLIT)
    return _escaped(parts[0]) + "".join(
        f":color[{_escaped(part[0])}]{_escaped(part[1:])}" for part in parts[1:]
    )


def _escaped(text: str) -> str:
    text = _BEFORE_LINK.sub(r"\!", _MARKS.sub(r"\\\g<0>", text))
    text = _LINE_START.sub(_start_escaped, text)
    # With a backslash inside, no address is seen before all backslashes are resolved: it is then found whole.
    return _WWW.sub(r"\1\\.", text)


def _start_escaped(match: re.Match[str]) -> str:
    indent, mark, number, after = match.groups()
    return f"{indent}\\{mark}" if mark else f"{indent}{number}\\{after}"


def in_a_line(error: LMDynoError | ErrorInfo) -> str:
    """Markdown: message and hint in one line, such as a toast."""
    return prose(_("{message} {hint}", message=error.message, hint=error.hint).strip())


def _told(error: LMDynoError | ErrorInfo) -> str:
    parts = (prose(_(error.message)), prose(_(error.hint)), f"`{error.code}`")
    return "\n\n".join(part for part in parts if part)


def prose(text: str) -> str:
    """Text escaped, but commands between backticks stay commands."""
    parts = text.split("`")
    if len(parts) % 2 == 0:
        return escape(text)
    return "`".join(part if place % 2 else escape(part) for place, part in enumerate(parts))


def show_chart(figure: "Figure", *, key: str, alt: str) -> None:
    """A chart without plotly's tools; `alt` is what a screen reader says of it."""
    st.plotly_chart(figure, key=key, config={"displayModeBar": False}, alt=alt)


def show_tabs(titles: Sequence[str], *, key: str, opened: int = 0) -> Sequence[TabContainer]:
    """Tabs that rerun the page when one is opened; the tab at the place `opened` is open at first.

    The open one stays open when the page's language changes: Streamlit knows a tab by its title alone, and
    would open the first one.
    """
    place_key = f"{key}_place"
    if st.session_state.get(key) not in titles:
        place: int = st.session_state.get(place_key, opened)
        st.session_state[key] = titles[min(place, len(titles) - 1)]
    tabs = st.tabs(titles, on_change="rerun", key=key)
    st.session_state[place_key] = next((place for place, tab in enumerate(tabs) if tab.open), opened)
    return tabs


class Slots:
    """Fixed places for the parts of one container, named in their order. Use it as a context manager.

    Streamlit tells elements apart by their position. If a part is left out, everything after it moves up, and
    a browser goes on showing what the run before had in its place until this run ends, which for a streaming
    page is long. So every part has a place of its own, and a place that is not used is emptied.

    with Slots("status", "answer") as slots:
        with slots.fill("answer"):  # empties "status", which comes before it
            ...
    """

    def __init__(self, *names: str) -> None:
        self._left = deque(names)

    def __enter__(self) -> "Slots":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # A run that is broken off draws nothing more.
        if kind is None:
            self._empty(len(self._left))

    def fill(self, name: str) -> DeltaGenerator:
        """A container in the place of that name; places that were passed over are emptied.

        Raises ValueError for a place that is not left: they are filled in order, each at most once.
        """
        if name not in self._left:
            raise ValueError(f"the places left are {', '.join(self._left) or 'none'}, without {name}")
        self._empty(self._left.index(name))
        self._left.popleft()
        return st.container()

    def _empty(self, number: int) -> None:
        for _place in range(number):
            self._left.popleft()
            st.empty()


def images_counted(images: int) -> str:
    """`1 image`, `3 images`."""
    return ngettext("{n} image", "{n} images", images)


def refuse_misfits(plan: TurnPlan) -> None:
    """Raise InputError if a lane of the plan can't take the images that it would be sent."""
    for request in plan.requests:
        require_sendable(request.lane, request.messages)


def image_preview(lane: LaneSpec, messages: Sequence[Message]) -> str | None:
    """Size and tokens of the last message's images for the lane, and how much context all of them leave.

    None where only the server knows.
    """
    costs = image_costs(lane, messages[-1].images)
    if costs is None:
        return None
    sizes, tokens = _image_sizes(costs), _image_tokens(costs)
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


def images_given(record: RequestRecord) -> str:
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
                sizes=_image_sizes(costs),
                tokens=_image_tokens(costs),
            )
        ]
    if record.phase is Phase.DONE and record.prompt_tokens is not None:
        parts.append(_context_left(record.lane, record.prompt_tokens + (record.output_tokens or 0)))
    return " · ".join(parts)


def _context_left(lane: LaneSpec, used_tokens: int) -> str:
    available = vision_context_tokens(lane)
    used = units.count(used_tokens)
    if available is None:
        return _("context: {used} used", used=used)
    left = units.count(max(0, available - used_tokens))
    return _("context: {used} used, {left} left", used=used, left=left)


def _image_tokens(costs: Sequence[ImageCost]) -> str:
    return units.count(sum(cost.tokens for cost in costs))


def _image_sizes(costs: Sequence[ImageCost]) -> str:
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
    st.image(data, width="stretch", alt=describe_image(image))


def describe_image(image: StoredImage) -> str:
    """`cat.png, 640 × 480 pixels`."""
    return _(
        "{image}, {width} × {height} pixels",
        image=image.name or _("Image"),
        width=image.width_px,
        height=image.height_px,
    )


def image_facts(image: StoredImage) -> str:
    """Name, size and type, in Markdown."""
    return escape(f"{describe_image(image)}, {image.media_type.removeprefix('image/').upper()}")
