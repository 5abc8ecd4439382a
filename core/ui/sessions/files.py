"""Export a session as files, and delete it."""

from collections.abc import Callable

import streamlit as st

from core.access.guard import Action, authorise, may
from core.domain.sessions import Session, SessionRecord, SessionState
from core.errors import LMDynoError
from core.i18n import _
from core.reports.session_html import session_html
from core.sessions import telling
from core.sessions.exports import (
    FORMAT_NAMES,
    battle_log,
    llm_comparator,
    session_json,
    session_schema,
    votes_csv,
)
from core.ui.sessions import address
from core.ui.shared import resources
from core.ui.shared.components import color_of, show_toast

_NAMES = "export_names"


def show(session: Session) -> None:
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
    try:
        resources.sessions().delete(session.id)
    except LMDynoError as error:
        show_toast(error)
        return
    address.go_to_list()
