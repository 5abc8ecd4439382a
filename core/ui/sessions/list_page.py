"""The list of sessions, with the buttons that create one or import one from a file."""

from collections.abc import Sequence

import streamlit as st

from core.access.guard import Action, is_read_only, may, may_see
from core.domain.sessions import SessionState
from core.errors import LMDynoError
from core.i18n import _, ngettext
from core.reports.imports import read_session
from core.sessions.wording import STATE_NAMES
from core.store.sessions.sessions import SessionSummary
from core.ui.sessions import address
from core.ui.shared import resources
from core.ui.shared.components import escape, show_error

MAX_FILE_MB = 200

_COLORS = {SessionState.DRAFT: "orange", SessionState.OPEN: "green", SessionState.CLOSED: "gray"}


def show() -> None:
    st.markdown(
        _(
            "In a session, people compare the answers of several lanes without knowing which lane wrote "
            "which answer. Answers are generated and measured in advance, and then everyone votes "
            "through a link. The results show what the votes prove and what they leave open."
        )
    )
    with st.container(horizontal=True, vertical_alignment="center"):
        if not is_read_only():
            st.button(
                _("New session"),
                type="primary",
                icon=":material/add:",
                on_click=address.go_to_new,
                disabled=not may(Action.START_JOB),
            )
        if may(Action.IMPORT):
            _show_import()
    summaries = [
        summary for summary in resources.sessions().summaries() if may_see(summary.owner, by_link=False)
    ]
    if summaries:
        _show_list(summaries)
    else:
        st.info(_("There are no sessions yet. Create or import one."), icon=":material/how_to_vote:")


def _show_list(summaries: Sequence[SessionSummary]) -> None:
    for summary in summaries:
        with st.container(
            border=True, horizontal=True, vertical_alignment="center", horizontal_alignment="distribute"
        ):
            with st.container(gap="xsmall", width="stretch"):
                st.markdown(f"**{escape(summary.title)}** {badge(summary.state)}")
                people = ngettext("{n} person", "{n} people", summary.participants)
                votes = ngettext("{n} vote", "{n} votes", summary.votes)
                st.caption(
                    _(
                        "{date} UTC · {people} · {votes}",
                        date=f"{summary.created_at:%Y-%m-%d %H:%M}",
                        people=people,
                        votes=votes,
                    )
                )
            st.button(
                _("Open"),
                key=f"open_{summary.id}",
                on_click=address.go_to_session,
                args=(summary.id,),
                width="content",
            )


def _show_import() -> None:
    with st.popover(_("Import"), icon=":material/upload:"), st.form("session_import", border=False):
        file = st.file_uploader(
            _("A session's JSON, as another machine exported it"), type="json", max_upload_size=MAX_FILE_MB
        )
        if not st.form_submit_button(_("Import"), type="primary") or file is None:
            return
        try:
            session = resources.sessions().add(read_session(file))
        except LMDynoError as error:
            show_error(error)
            return
    address.go_to_session(session.id)
    st.rerun()


def badge(state: SessionState) -> str:
    """The state in its colour, as Markdown."""
    return f":{_COLORS[state]}-badge[{_(STATE_NAMES[state])}]"
