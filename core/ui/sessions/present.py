"""The screen for a room: QR code, number of votes, and the results once they may be shown."""

import streamlit as st

from core.domain.sessions import Session, SessionState
from core.i18n import _, ngettext
from core.sessions import telling
from core.ui.sessions import address
from core.ui.sessions.invite import qr_code, voting_link
from core.ui.sessions.results import current_results, show_strengths
from core.ui.shared import resources
from core.ui.shared.components import escape
from core.ui.shared.presenting import show_exit_button

REFRESH_S = 2.0


def show(session: Session) -> None:
    st.markdown(f"# {escape(session.plan.title)}", anchors=False)
    _show_live()
    show_exit_button()


@st.fragment(run_every=REFRESH_S)
def _show_live() -> None:
    session = address.session_in_view()
    if session is None:
        return
    turnout = resources.votes().turnout(session.id)
    if session.state is SessionState.OPEN:
        code, counts = st.columns([1, 1], vertical_alignment="center")
        with code:
            st.image(qr_code(voting_link(session), scale=12), width=420, alt=_("QR code of the voting link"))
        with counts:
            _show_counts(turnout.participants, turnout.votes)
    if session.state is SessionState.CLOSED or (
        session.state is SessionState.OPEN and not session.plan.results_hidden
    ):
        results, _votes = current_results(session)
        st.markdown(f"## {escape(telling.headline(session, results.standings))}", anchors=False)
        if session.state is SessionState.CLOSED:
            _show_counts(results.participants, results.votes)
        if results.votes:
            show_strengths(session, results.standings, key=f"present_{session.id}", large=True)


def _show_counts(people: int, votes: int) -> None:
    told = ngettext("{n} person", "{n} people", people)
    cast = ngettext("{n} vote", "{n} votes", votes)
    st.markdown(f"## {told}", anchors=False)
    st.markdown(f"## {cast}", anchors=False)
