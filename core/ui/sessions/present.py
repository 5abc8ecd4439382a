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
from core.ui.shared.presenting import present

REFRESH_S = 2.0
_LOOKED_AT = 20


def show() -> None:
    """The session that the address names."""
    present(lambda: _show(address.session_in_view()), refresh_s=REFRESH_S)


def show_newest_session() -> None:
    """The newest session that people vote in or have voted in. Raises StoreError."""
    summaries = resources.sessions().summaries(_LOOKED_AT)
    newest = next((summary for summary in summaries if summary.state is not SessionState.DRAFT), None)
    if newest is None:
        st.info(_("No session has been opened yet."), icon=":material/how_to_vote:")
        return
    _show(resources.sessions().session(newest.id))


def _show(session: Session | None) -> None:
    if session is None:
        return
    st.markdown(f"# {escape(session.plan.title)}", anchors=False)
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
    voters = ngettext("{n} person", "{n} people", people)
    cast = ngettext("{n} vote", "{n} votes", votes)
    st.markdown(f"## {voters}", anchors=False)
    st.markdown(f"## {cast}", anchors=False)
