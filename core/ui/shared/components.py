"""Small things that several pages draw: an error, a lane's name in its colour, a way to copy text."""

from urllib.parse import urlsplit

import streamlit as st

from core.charts.colors import lane_color
from core.domain.specs import EngineKind, LaneSpec, Weights
from core.domain.turns import ErrorInfo
from core.errors import LMDynoError
from core.i18n import N_, _
from core.ui.shared import resources
from core.ui.shared.plain_text import plain_text

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


def show_error(error: LMDynoError | ErrorInfo) -> None:
    """What happened, what to do next, and the code to search for."""
    st.error(_told(error), icon=":material/error:")


def show_warning(problem: LMDynoError | ErrorInfo) -> None:
    """The same for what keeps nothing from going on."""
    st.warning(_told(problem), icon=":material/warning:")


def show_toast(error: LMDynoError) -> None:
    """The same in passing, for callbacks."""
    st.toast(in_a_line(error), icon=":material/error:")


def lane_label(name: str) -> str:
    """Markdown: a square in the lane's colour and its name, which stay on one line."""
    color = color_of(name)
    return f':color[■]{{foreground="{color}"}}\N{NO-BREAK SPACE}**{escape(name)}**'


def color_of(name: str) -> str:
    return lane_color(name, [lane.name for lane in resources.lanes().lanes])


def describe_lane(lane: LaneSpec) -> str:
    """Engine, weights and place of a lane in one line."""
    if lane.endpoint:
        parts = [_(KIND_NAMES[lane.kind]), lane.endpoint.model, urlsplit(lane.endpoint.url).netloc]
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
    """Text of people, files or servers, so that Markdown shows it as it is."""
    return plain_text(text)


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
