"""Sessions: prepare blind votes, invite people, and see what they say."""

import streamlit as st

from core.domain.sessions import Session, SessionState
from core.errors import LMDynoError
from core.i18n import _
from core.ui.sessions.hosting import show_answers, show_invitation, show_screen
from core.ui.sessions.list_page import badge, go_to_list, is_new, session_in_view, show_form, show_sessions
from core.ui.sessions.results import show_files, show_judge, show_results
from core.ui.shared import shell
from core.ui.shared.components import escape, show_error, show_tabs
from core.ui.shared.presenting import presents

REFRESH_S = 3.0


def _show_session(session: Session) -> None:
    st.button(_("All sessions"), icon=":material/arrow_back:", type="tertiary", on_click=go_to_list)
    st.markdown(f"### {escape(session.plan.title)} {badge(session.state)}", anchors=False)
    if session.plan.purpose:
        st.text(session.plan.purpose)
    names = [_("Answers"), _("Invite and monitor"), _("Results"), _("Files")]
    opened = {SessionState.DRAFT: 0, SessionState.OPEN: 1, SessionState.CLOSED: 2}[session.state]
    tabs = show_tabs(names, opened=opened, key=f"session_tabs_{session.id}_{session.state}")
    answers, people, results, exports = tabs
    if answers.open:
        with answers:
            show_answers(session)
    if people.open:
        with people:
            show_invitation(session)
    if results.open:
        with results:
            _show_live_results()
            show_judge(session)
    if exports.open:
        with exports:
            show_files(session)


@st.fragment(run_every=REFRESH_S)
def _show_live_results() -> None:
    session = session_in_view()
    if session is None:
        return
    if not session.items:
        st.info(_("There are no results before voting starts."), icon=":material/how_to_vote:")
        return
    show_results(session)


shell.require()
try:
    if is_new():
        show_form()
    elif session := session_in_view():
        if presents():
            show_screen()
        else:
            _show_session(session)
    else:
        show_sessions()
except LMDynoError as error:
    show_error(error)
    st.button(_("All sessions"), icon=":material/arrow_back:", on_click=go_to_list)
