"""The first minutes: how far the demo weights are, and what can be used meanwhile."""

import streamlit as st

from core.engines.registry import EngineState
from core.i18n import _
from core.jobs.records import JobState, JobStatus
from core.jobs.registry import Jobs
from core.models.demo import job as demo_job
from core.ui.engines.status import REFRESH_S
from core.ui.shared import resources
from core.ui.shared.components import escape
from core.ui.shared.job_panel import show_job, show_job_log


def show() -> None:
    """Nothing unless demo weights are being prepared or couldn't be."""
    if _preparing() is None:
        st.empty()
        return
    _show_progress()


@st.fragment(run_every=REFRESH_S)
def _show_progress() -> None:
    status = _preparing()
    if status is None:
        st.rerun()
    with st.container(border=True):
        show_job(status)
        if status.state is JobState.FAILED:
            show_job_log(status)
        else:
            st.markdown(_usable())


def _preparing() -> JobStatus | None:
    """The job that makes weights which lanes wait for, while it goes on or after it failed."""
    made = resources.resources()
    newest = next(iter(Jobs(made.settings).statuses(demo_job.JOB_KIND)), None)
    if newest is None or newest.state in (JobState.DONE, JobState.CANCELLED):
        return None
    if newest.state is JobState.FAILED and not demo_job.is_wanted(made.settings, resources.lanes().lanes):
        return None
    return newest


def _usable() -> str:
    """What works already: a demo model's lanes start by themselves as soon as their files are there."""
    ready = [
        status.name for status in resources.manager().statuses() if status.state is EngineState.HEALTHY
    ] + [lane.name for lane in resources.lanes().lanes if not lane.is_local]
    if ready:
        return _(
            "Ready to use now: {lanes}, and all pages. Other lanes start by themselves when their weights "
            "are there.",
            lanes=", ".join(f"**{escape(name)}**" for name in ready),
        )
    return _(
        "Lanes start by themselves when their weights are there, the first one before the job ends. "
        "Meanwhile you can use all pages, such as the KV cache explorer on the Memory page, and send "
        "prompts, which wait for their engines."
    )
