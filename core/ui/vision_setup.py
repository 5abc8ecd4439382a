"""Which lanes see and which don't, and what the demo model can't do."""

from collections.abc import Sequence

import streamlit as st

from core.config import VISION_DEMO_NAME
from core.domain.pictures import Picture
from core.domain.specs import LaneSpec
from core.models.vision import refusal
from core.ui.components import lane_label, sentence

DEMO_LIMITS = "The demo model knows simple drawn scenes only."
_EXAMPLE = """\
[models.llava]
checkpoint = "llava-hf/llava-1.5-7b-hf"

[lanes.llava]
engine = "pytorch"      # or "transformers", on a CPU too
model = "llava"

[lanes.lab]
engine = "endpoint"
url = "http://gpu-host:23333/v1"
vision = true
"""


def show_no_lanes(lanes: Sequence[LaneSpec]) -> None:
    """Nothing here sees: why each lane doesn't, and how to add one that does."""
    st.info(
        "No lane here takes pictures. Add one to `lanes.toml` and load this page again:",
        icon=":material/image_not_supported:",
    )
    st.code(_EXAMPLE, language="toml")
    show_refused(lanes)


def show_refused(lanes: Sequence[LaneSpec]) -> None:
    """The lanes that are not offered, each with its reason; nothing if all are."""
    reasons = {lane.name: reason for lane in lanes if (reason := refusal(lane))}
    if not reasons:
        return
    with st.expander(f"Not for pictures: {len(reasons)}", icon=":material/image_not_supported:"):
        for name, reason in reasons.items():
            st.markdown(f"{lane_label(name)}  \n:small[:gray[{sentence(reason.message)}]]")


def show_limits(lanes: Sequence[LaneSpec], pictures: Sequence[Picture]) -> None:
    """What the demo model can't do, if one of the lanes has it; plainer with what may be a photograph."""
    if not any(lane.model and lane.model.name == VISION_DEMO_NAME for lane in lanes):
        return
    # Drawings are mostly PNG, photographs JPEG; only the model would know better.
    if any(picture.media_type == "image/jpeg" for picture in pictures):
        st.caption(
            f":orange[:material/warning: {DEMO_LIMITS} What it says about a photograph means nothing: pick a "
            "lane with a larger model.]"
        )
    else:
        st.caption(f":material/info: {DEMO_LIMITS}")
