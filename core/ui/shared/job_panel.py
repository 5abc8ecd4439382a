"""A background job on a page: title and state, how far it is, how to end it, what went wrong."""

from collections.abc import Callable

import streamlit as st

from core import units
from core.errors import LMDynoError
from core.jobs.records import JobState, JobStatus
from core.jobs.registry import Jobs
from core.ui.shared import resources
from core.ui.shared.components import escape, sentence, show_error, show_toast

_BADGES = {
    JobState.QUEUED: ":gray-badge[queued]",
    JobState.RUNNING: ":orange-badge[running]",
    JobState.DONE: ":green-badge[done]",
    JobState.FAILED: ":red-badge[failed]",
    JobState.CANCELLED: ":gray-badge[cancelled]",
}
_ENDING = "jobs_asked_to_end"


def show_job(
    status: JobStatus, *, end: str = "Cancel", show_detail: Callable[[JobStatus], None] | None = None
) -> None:
    """The job as it stands; draw it in a fragment that refreshes itself.

    `end` is the word on the button that ends it. `show_detail` draws what the job has so far, or its result.
    """
    st.markdown(f"**{escape(status.spec.title)}** {_BADGES[status.state]}")
    if not status.state.ended:
        _show_progress(status)
        _show_end(status, end)
    elif status.record.error:
        show_error(status.record.error)
    if show_detail:
        show_detail(status)


def show_job_log(status: JobStatus) -> None:
    """The end of the job's log, read when it is opened."""
    with st.expander("Log", icon=":material/article:", on_change="rerun", key=f"job_log_{status.id}") as log:
        if log.open:
            st.code(_jobs().log_tail(status.id) or units.UNKNOWN, language=None, height=240)


def _show_progress(status: JobStatus) -> None:
    record = status.record
    parts = [sentence(record.stage or "waiting"), units.duration(status.elapsed_s)]
    if status.expected_s is not None:
        parts.append(f"about {units.duration(status.expected_s)} left")
    st.progress(record.progress or 0.0, text=" · ".join(parts))
    if status.state is JobState.QUEUED and status.spec.device:
        st.caption(
            f":material/hourglass_top: Another job keeps {escape(status.spec.device)} busy. This one begins "
            "when that has ended."
        )


def _show_end(status: JobStatus, word: str) -> None:
    ending: set[str] = st.session_state.setdefault(_ENDING, set())
    is_ending = status.id in ending
    st.button(
        "Ending …" if is_ending else word,
        icon=":material/stop_circle:",
        key=f"cancel_{status.id}",
        disabled=is_ending,
        on_click=_end,
        args=(status.id,),
    )


def _end(job_id: str) -> None:
    try:
        _jobs().cancel(job_id)
    except LMDynoError as error:
        show_toast(error)
        return
    st.session_state.setdefault(_ENDING, set()).add(job_id)


def _jobs() -> Jobs:
    return Jobs(resources.resources().settings)
