"""Background jobs on a page: which machine does one, how far it is, how to end it, what went wrong."""

from collections.abc import Callable, Sequence

import streamlit as st

from core import units
from core.access.guard import Action, may
from core.engines.resolve import node_trouble, read_snapshot, trouble
from core.errors import StoreError
from core.i18n import N_, Text, _
from core.jobs.registry import Jobs, JobState, JobStatus
from core.telemetry.samples import GpuFacts
from core.ui.shared import resources
from core.ui.shared.components import errors_as_toasts, escape, prose, show_error

_BADGES = {
    JobState.QUEUED: ("gray", N_("queued")),
    JobState.RUNNING: ("orange", N_("running")),
    JobState.DONE: ("green", N_("done")),
    JobState.FAILED: ("red", N_("failed")),
    JobState.CANCELLED: ("gray", N_("cancelled")),
}
_CANCEL = N_("Cancel")
WAITING = N_("Waiting")
_ENDING = "jobs_asked_to_end"


def show_job(
    status: JobStatus, *, end: Text = _CANCEL, show_detail: Callable[[JobStatus], None] | None = None
) -> None:
    """Draw the job's state; call it in a fragment that refreshes itself.

    `end` is the label of the button that ends it. `show_detail` draws what the job has so far, or its result.
    """
    st.markdown(f"**{escape(_(status.spec.title))}** {job_badge(status.state)}")
    if not status.state.ended:
        _show_progress(status)
        _show_end(status, end)
    elif status.record.error:
        show_error(status.record.error)
    if show_detail:
        show_detail(status)


def not_deleted(statuses: Sequence[JobStatus]) -> tuple[JobStatus, ...]:
    """Without the jobs whose results are in the history's bin; all of them if the store can't be read."""
    try:
        entries = resources.history().find([status.id for status in statuses])
    except StoreError:
        return tuple(statuses)
    in_bin = {entry.id for entry in entries if entry.deleted_at is not None}
    return tuple(status for status in statuses if status.id not in in_bin)


def job_badge(state: JobState) -> str:
    color, word = _BADGES[state]
    return f":{color}-badge[{_(word)}]"


def show_job_log(status: JobStatus) -> None:
    """The end of the job's log, read when it is opened; for operators, since it can hold prompts."""
    if not may(Action.CANCEL_JOB):
        return
    with st.expander(
        _("Log"), icon=":material/article:", on_change="rerun", key=f"job_log_{status.id}"
    ) as log:
        if log.open:
            st.code(_jobs().log_tail(status.id) or units.UNKNOWN, language=None, height=240)


def _show_progress(status: JobStatus) -> None:
    record = status.record
    parts = [escape(_(record.stage or WAITING)), units.duration(status.elapsed_s)]
    if status.expected_s is not None:
        parts.append(_("about {time} left", time=units.duration(status.expected_s)))
    st.progress(record.progress or 0.0, text=" · ".join(parts))
    if status.state is JobState.QUEUED and status.spec.device:
        waits = _("Waiting for {device}: another job is using it.", device=escape(status.spec.device))
        st.caption(f":material/hourglass_top: {waits}")


def _show_end(status: JobStatus, label: Text) -> None:
    if not may(Action.CANCEL_JOB):
        return
    ending: set[str] = st.session_state.setdefault(_ENDING, set())
    is_ending = status.id in ending
    st.button(
        _("Stopping…") if is_ending else _(label),
        icon=":material/stop_circle:",
        key=f"cancel_{status.id}",
        disabled=is_ending,
        on_click=_end,
        args=(status.id,),
    )


def _end(job_id: str) -> None:
    with errors_as_toasts():
        _jobs().cancel(job_id)
        st.session_state.setdefault(_ENDING, set()).add(job_id)


def _jobs() -> Jobs:
    return Jobs(resources.settings())


_HERE = ""
_WIDTH = 320


def choose_node(key: str) -> str | None:
    """The chosen node's name, None for this machine; draws nothing without `[cluster]` in the lanes file.

    Nodes that can't do anything now are named below with the reason. Not for forms, as what follows depends
    on the machine.
    """
    if resources.lanes().cluster is None:
        return None
    snapshot = read_snapshot(resources.settings())
    problem = trouble(snapshot)
    nodes = sorted(snapshot.nodes, key=lambda node: node.name) if snapshot else []
    usable = [node.name for node in nodes if problem is None and node.problem is None]
    # A node that stops answering stays chosen: the work must not go to another machine unnoticed.
    before: str = st.session_state.get(key, _HERE)
    options = [_HERE, *usable]
    if before not in options:
        options.append(before)
    chosen = st.selectbox(
        _("Node"), options, format_func=lambda name: name or _("This machine"), key=key, width=_WIDTH
    )
    reasons = [problem] if problem else [node.problem for node in nodes]
    lines = [
        f":orange[:material/warning:] {prose(_(reason.message))} {prose(_(reason.hint))}".rstrip()
        for reason in reasons
        if reason is not None
    ]
    if lines:
        st.caption("  \n".join(lines))
    return chosen or None


def is_usable(node: str | None) -> bool:
    """Whether a job can be started there now; if not, the reason is shown."""
    if node is None:
        return True
    problem = node_trouble(read_snapshot(resources.settings()), node)
    if problem is not None:
        show_error(problem)
    return problem is None


def gpus_of(node: str) -> tuple[GpuFacts, ...]:
    """The node's GPUs as it last told; none for a node that there isn't."""
    snapshot = read_snapshot(resources.settings())
    facts = snapshot.node(node) if snapshot else None
    return facts.gpus if facts else ()
