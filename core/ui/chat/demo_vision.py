"""Which lanes see and which don't, and what the demo model can't do."""

from collections.abc import Sequence

import streamlit as st

from core.access.guard import Action, may
from core.config import VISION_DEMO_NAME
from core.domain.conversation import StoredImage
from core.domain.specs import LaneSpec
from core.errors import LMDynoError
from core.i18n import N_, _, ngettext
from core.jobs.registry import Jobs
from core.models.demo import job as demo_job
from core.models.demo import vision as demo_vision
from core.models.vision.model import refusal
from core.ui.engines.status import REFRESH_S
from core.ui.shared import resources
from core.ui.shared.components import escape, lane_label, show_error, show_toast
from core.ui.shared.job_panel import WAITING

DEMO_LIMITS = N_("The demo model understands only simple drawn scenes.")
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
        _("No lane can see images. Add one to `lanes.toml`, and reload this page:"),
        icon=":material/image_not_supported:",
    )
    st.code(_EXAMPLE, language="toml")
    show_refused(lanes)


def show_refused(lanes: Sequence[LaneSpec]) -> None:
    """The lanes that are not offered, each with its reason; nothing if all are."""
    reasons = {lane.name: reason for lane in lanes if (reason := refusal(lane))}
    if not reasons:
        return
    label = ngettext("{n} lane can't see images", "{n} lanes can't see images", len(reasons))
    with st.expander(label, icon=":material/image_not_supported:"):
        for name, reason in reasons.items():
            st.markdown(f"{lane_label(name)}  \n:small[:gray[{escape(_(reason.message))}]]")


def show_limits(lanes: Sequence[LaneSpec], images: Sequence[StoredImage]) -> None:
    """The limits of the demo model, if one of the lanes has it; stressed for possible photographs."""
    if not any(lane.model and lane.model.name == VISION_DEMO_NAME for lane in lanes):
        return
    # Drawings are mostly PNG, photographs JPEG; only the model would know better.
    if any(image.media_type == "image/jpeg" for image in images):
        limits = _(
            "The demo model understands only simple drawn scenes. Its answers about photographs are "
            "meaningless. "
            "Choose a lane with a larger model."
        )
        st.caption(f":orange[:material/warning: {limits}]")
    else:
        st.caption(f":material/info: {_(DEMO_LIMITS)}")


def needs_preparing(lanes: Sequence[LaneSpec]) -> bool:
    """Whether one of the lanes wants the demo model and it is not there yet."""
    has_demo_lane = any(lane.model and lane.model.name == VISION_DEMO_NAME for lane in lanes)
    return has_demo_lane and not demo_vision.is_prepared(resources.settings())


@st.fragment(run_every=REFRESH_S)
def show_preparing() -> None:
    """The way to the demo model: a button, then how far it is; refreshes itself, and the page when done."""
    settings = resources.settings()
    if demo_vision.is_prepared(settings):
        st.rerun()  # the page has the rest to show now
    status = next(iter(Jobs(settings).statuses(demo_job.JOB_KIND)), None)
    with st.container(border=True):
        st.markdown(f"**{_('The demo vision model is not prepared yet')}**")
        st.caption(
            _(
                "LMDyno includes its weights and combines them with those of the demo chat model. This "
                "takes less "
                "than a minute if the demo chat model is prepared, and has to be done only once."
            )
        )
        if status and not status.state.ended:
            st.progress(status.record.progress or 0.0, text=escape(_(status.record.stage or WAITING)))
            return
        if status and status.record.error:
            show_error(status.record.error)
        st.button(
            _("Prepare the demo model"),
            icon=":material/download:",
            type="primary",
            key="prepare_demo_vision",
            disabled=not may(Action.START_JOB),
            on_click=_prepare,
        )


def _prepare() -> None:
    try:
        demo_job.start(resources.settings())
    except LMDynoError as error:
        show_toast(error)
