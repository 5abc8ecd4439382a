"""Which lanes see and which don't, and what the demo model can't do."""

from collections.abc import Sequence

import streamlit as st

from core.config import VISION_DEMO_NAME
from core.domain.images import StoredImage
from core.domain.specs import LaneSpec
from core.errors import LMDynoError
from core.jobs.registry import Jobs
from core.models.demo import vision as demo_vision
from core.models.demo import vision_job as demo_vision_job
from core.models.vision.model import refusal
from core.ui.engines.status import REFRESH_S
from core.ui.shared import resources
from core.ui.shared.components import lane_label, sentence, show_error, show_toast

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
        "No lane here takes images. Add one to `lanes.toml` and load this page again:",
        icon=":material/image_not_supported:",
    )
    st.code(_EXAMPLE, language="toml")
    show_refused(lanes)


def show_refused(lanes: Sequence[LaneSpec]) -> None:
    """The lanes that are not offered, each with its reason; nothing if all are."""
    reasons = {lane.name: reason for lane in lanes if (reason := refusal(lane))}
    if not reasons:
        return
    with st.expander(f"Not for images: {len(reasons)}", icon=":material/image_not_supported:"):
        for name, reason in reasons.items():
            st.markdown(f"{lane_label(name)}  \n:small[:gray[{sentence(reason.message)}]]")


def show_limits(lanes: Sequence[LaneSpec], images: Sequence[StoredImage]) -> None:
    """What the demo model can't do, if one of the lanes has it; plainer with what may be a photograph."""
    if not any(lane.model and lane.model.name == VISION_DEMO_NAME for lane in lanes):
        return
    # Drawings are mostly PNG, photographs JPEG; only the model would know better.
    if any(image.media_type == "image/jpeg" for image in images):
        st.caption(
            f":orange[:material/warning: {DEMO_LIMITS} What it says about a photograph means nothing: pick a "
            "lane with a larger model.]"
        )
    else:
        st.caption(f":material/info: {DEMO_LIMITS}")


def needs_preparing(lanes: Sequence[LaneSpec]) -> bool:
    """Whether one of the lanes wants the demo model and it is not there yet."""
    wanted = any(lane.model and lane.model.name == VISION_DEMO_NAME for lane in lanes)
    return wanted and not demo_vision.is_prepared(resources.resources().settings)


@st.fragment(run_every=REFRESH_S)
def show_preparing() -> None:
    """The way to the demo model: a button, then how far it is; refreshes itself, and the page when done."""
    settings = resources.resources().settings
    if demo_vision.is_prepared(settings):
        st.rerun()  # the page has the rest to show now
    status = next(iter(Jobs(settings).statuses(demo_vision_job.JOB_KIND)), None)
    with st.container(border=True):
        st.markdown("**The demo vision model is not prepared yet**")
        st.caption(
            "Its weights come with LMDyno and are put together with those of the demo chat model, once: in "
            "under a minute if those are there."
        )
        if status and not status.state.ended:
            st.progress(status.record.progress or 0.0, text=sentence(status.record.stage or "waiting"))
            return
        if status and status.record.error:
            show_error(status.record.error)
        st.button(
            "Prepare the demo model",
            icon=":material/download:",
            type="primary",
            key="prepare_demo_vision",
            on_click=_prepare,
        )


def _prepare() -> None:
    try:
        demo_vision_job.start(resources.resources().settings)
    except LMDynoError as error:
        show_toast(error)
