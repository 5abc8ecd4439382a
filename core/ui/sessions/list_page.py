"""The list of sessions, and the one that a host has open: create, import, export and delete them.

The open one is kept in the address, so that the page can be reloaded and shared.
"""

from collections.abc import Callable, Sequence

import streamlit as st

from core.access.guard import Action, authorise, is_read_only, may, may_see
from core.domain.sessions import Session, SessionRecord, SessionState
from core.errors import LMDynoError
from core.i18n import _, ngettext
from core.reports.exported_file import read_session
from core.reports.html import session_html
from core.sessions import telling
from core.sessions.exports import (
    FORMAT_NAMES,
    battle_log,
    llm_comparator,
    session_json,
    session_schema,
    votes_csv,
)
from core.sessions.telling import STATE_NAMES
from core.store.sessions import SessionSummary
from core.ui.shared import resources
from core.ui.shared.components import color_of, errors_as_toasts, escape, show_error
from core.ui.shared.presenting import PRESENT

MAX_FILE_MB = 200

_COLORS = {SessionState.DRAFT: "orange", SessionState.OPEN: "green", SessionState.CLOSED: "gray"}

_NAMES = "export_names"

_ID = "id"
_NEW = "session_new"


def show_sessions() -> None:
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
                on_click=go_to_new,
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
                on_click=go_to_session,
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
    go_to_session(session.id)
    st.rerun()


def badge(state: SessionState) -> str:
    """The state in its colour, as Markdown."""
    return f":{_COLORS[state]}-badge[{_(STATE_NAMES[state])}]"


def show_files(session: Session) -> None:
    st.toggle(
        _("With the participants' names"),
        key=_NAMES,
        help=_("Without names, participants are numbered. Files never contain links or codes."),
    )
    lanes = telling.lane_names(session)
    pair = st.multiselect(
        _("Lanes for LLM Comparator"),
        lanes,
        default=lanes[:2],
        max_selections=2,
        key=f"pair_{session.id}",
        placeholder=_("Choose one or more"),
    )
    with st.container(horizontal=True):
        _show_download(session, "html", _("Report (HTML)"), "html", _report)
        _show_download(session, "json", _(FORMAT_NAMES["json"]), "json", _json)
        _show_download(session, "csv", _(FORMAT_NAMES["csv"]), "csv", _csv)
        _show_download(session, "battles", _(FORMAT_NAMES["battles"]), "jsonl", battle_log)
        if len(pair) == 2:
            first, second = (lanes.index(name) for name in pair)
            _show_download(
                session,
                "comparator",
                _(FORMAT_NAMES["comparator"]),
                "comparator.json",
                lambda record: llm_comparator(record, first, second),
            )
        _show_download(
            session, "schema", _(FORMAT_NAMES["schema"]), "schema.json", lambda _record: session_schema()
        )
    _show_delete(session)


def _show_download(
    session: Session, kind: str, label: str, ending: str, make: Callable[[SessionRecord], bytes]
) -> None:
    st.download_button(
        label,
        lambda: _made(session, make),
        file_name=f"session-{session.id}.{ending}",
        icon=":material/download:",
        key=f"download_{kind}_{session.id}",
        on_click="ignore",
        disabled=session.state is SessionState.DRAFT and kind != "schema",
    )


def _made(session: Session, make: Callable[[SessionRecord], bytes]) -> bytes:
    authorise(Action.EXPORT, f"session: {session.plan.title}", owner=session.owner)
    return make(resources.sessions().record(session.id))


def _json(record: SessionRecord) -> bytes:
    return session_json(record, names=bool(st.session_state.get(_NAMES)))


def _csv(record: SessionRecord) -> bytes:
    return votes_csv(record, names=bool(st.session_state.get(_NAMES)))


def _report(record: SessionRecord) -> bytes:
    colors = {name: color_of(name) for name in telling.lane_names(record.session)}
    return session_html(record, colors).encode()


def _show_delete(session: Session) -> None:
    with st.popover(_("Delete"), icon=":material/delete:"):
        st.markdown(_("Delete the session with all its answers and votes. This can not be undone."))
        st.button(
            _("Delete permanently"),
            type="primary",
            on_click=_delete,
            args=(session,),
            disabled=not may(Action.DELETE, owner=session.owner),
        )


def _delete(session: Session) -> None:
    with errors_as_toasts():
        resources.sessions().delete(session.id)
        go_to_list()


def session_in_view() -> Session | None:
    """The session that the address names; None for none. Raises StoreError (`no-such-session`)."""
    session_id = st.query_params.get(_ID)
    return resources.sessions().session(session_id) if session_id else None


def is_new() -> bool:
    """Whether a new session is being made."""
    return bool(st.session_state.get(_NEW))


def go_to_session(session_id: str) -> None:
    st.session_state[_NEW] = False
    st.query_params[_ID] = session_id
    st.query_params.pop(PRESENT, None)


def go_to_list() -> None:
    st.session_state[_NEW] = False
    for name in (_ID, PRESENT):
        st.query_params.pop(name, None)


def go_to_new() -> None:
    go_to_list()
    st.session_state[_NEW] = True
