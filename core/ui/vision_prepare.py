"""The demo vision model: a way to prepare it, for a lane that wants it and can't start without."""

from collections.abc import Sequence

import streamlit as st

from core.config import VISION_DEMO_NAME
from core.domain.specs import LaneSpec
from core.errors import LMDynoError
from core.jobs.book import Jobs
from core.models import demo_vision, demo_vision_job
from core.ui import resources
from core.ui.components import sentence, show_error
from core.ui.engine_status import REFRESH_S


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
        st.toast(f"{error.message} {error.hint}", icon=":material/error:")
