"""Start a lane or endpoint as a judge of the session's pairs, next to the participants' votes."""

import streamlit as st

from core.access.guard import Action, may
from core.domain.sessions import Session, SessionState
from core.errors import LMDynoError
from core.i18n import _
from core.jobs.records import JobStatus
from core.sessions.run.job import JUDGING_KIND, job_of, start_judging
from core.ui.sessions import address
from core.ui.shared import resources
from core.ui.shared.components import show_toast
from core.ui.shared.job_panel import show_job

REFRESH_S = 2.0
_PAIRS = 60
_JUDGE = "session_judge"
_NUMBER = "session_judge_pairs"


def show_judge(session: Session) -> None:
    """A form to start one, or the job that runs."""
    if session.state is SessionState.DRAFT:
        return
    job = _job(session)
    if job and not job.state.ended:
        _show_running()
        return
    pairs = sum(item.control is None and len(item.candidates) == 2 for item in session.items)
    if not pairs:
        return
    with st.expander(_("Let a model judge"), icon=":material/gavel:"):
        st.markdown(
            _(
                "A lane judges the same pairs, each in both orders. Its judgements are reported "
                "separately from the participants' votes. A judge that is one of the compared models "
                "favours its own answers."
            )
        )
        if job:
            show_job(job)
        names = [lane.name for lane in resources.lanes().lanes]
        with st.form("judge", border=False):
            st.selectbox(_("Judge"), names, key=_JUDGE)
            st.number_input(_("Pairs"), 1, pairs, min(pairs, _PAIRS), key=_NUMBER)
            st.form_submit_button(
                _("Judge"),
                icon=":material/gavel:",
                on_click=_start,
                args=(session,),
                disabled=not may(Action.START_JOB),
            )


def _job(session: Session) -> JobStatus | None:
    return job_of(resources.resources().settings, session.id, JUDGING_KIND)


@st.fragment(run_every=REFRESH_S)
def _show_running() -> None:
    session = address.session_in_view()
    job = _job(session) if session else None
    if job is None or job.state.ended:
        st.rerun()
    with st.container(border=True):
        show_job(job, end=_("Stop"))


def _start(session: Session) -> None:
    name = st.session_state[_JUDGE]
    judge = next(lane for lane in resources.lanes().lanes if lane.name == name)
    try:
        start_judging(
            resources.resources().settings, session, judge, most_items=int(st.session_state[_NUMBER])
        )
    except LMDynoError as error:
        show_toast(error)
