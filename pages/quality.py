"""Quality: what a faster engine or smaller weights cost in answers."""

import streamlit as st

from core.domain.runs import QualityRun
from core.errors import LMDynoError
from core.i18n import _
from core.jobs.registry import Jobs, JobStatus
from core.quality.job import JOB_KIND
from core.ui.engines.status import REFRESH_S
from core.ui.quality.form import show_form
from core.ui.quality.results import show_results
from core.ui.shared import resources, shell
from core.ui.shared.components import show_error
from core.ui.shared.jobs import show_job

_SHOWN = 20


def _running() -> JobStatus | None:
    statuses = Jobs(resources.settings()).statuses(JOB_KIND)
    return next((status for status in statuses if not status.state.ended), None)


@st.fragment(run_every=REFRESH_S)
def _show_running() -> None:
    """The run that goes on; refreshes itself, and the page at its end."""
    status = _running()
    if status is None:
        st.rerun()
    with st.container(border=True):
        show_job(status, end=_("Stop"), show_detail=_show_so_far)


def _show_so_far(status: JobStatus) -> None:
    _show_run(status.id, drill_down=False)


def _show_ended(*, without: str | None) -> None:
    try:
        runs = resources.quality_runs().latest(_SHOWN)
    except LMDynoError as error:
        show_error(error)
        return
    ended = {run.id: run for run in runs if run.id != without}
    if not ended:
        if without is None:
            st.info(_("No comparison has been made yet."), icon=":material/fact_check:")
        return
    chosen = st.selectbox(
        _("Results"),
        list(ended),
        format_func=lambda run_id: _label(ended[run_id]),
        key="quality_results",
    )
    with st.container(border=True):
        if problem := ended[chosen].error:
            show_error(problem)
        _show_run(chosen, drill_down=True)


def _label(run: QualityRun) -> str:
    return _("{title} · {time} UTC", title=run.title, time=f"{run.created_at:%Y-%m-%d %H:%M}")


def _show_run(run_id: str, *, drill_down: bool) -> None:
    try:
        if resources.quality_runs().run(run_id) is None:
            return
        record = resources.quality_runs().record(run_id)
        if record.answers or any(lane.scores or lane.error for lane in record.run.lanes):
            show_results(record, drill_down=drill_down)
    except LMDynoError as error:
        show_error(error)


shell.require()
st.markdown(
    _(
        "Compares the lanes' answers with a reference lane: tasks with known answers, token-by-token "
        "agreement, and how likely each lane finds the same texts. Keeps running if you leave "
        "this page."
    )
)
show_form()
running = _running()
if running is not None:
    _show_running()
_show_ended(without=running.id if running else None)
