"""Parts of every entry's page: the way back, head, note and tag, link, deleting."""

from datetime import datetime

import streamlit as st

from core import units
from core.domain.bench import RunState
from core.domain.history import HistoryEntry, RunKind
from core.domain.turns import Machine
from core.i18n import N_, _
from core.ui.history import actions as history_actions
from core.ui.history import session as history_state
from core.ui.history.list_page import show_outcome, tag_control
from core.ui.history.session import REPLAY
from core.ui.shared import resources
from core.ui.shared.components import escape
from core.ui.shared.visitor import is_mine

_NOT_FOUND = {
    RunKind.CHAT: N_(
        "Turn `{name}` not found. It was permanently deleted, or it belongs to another machine."
    ),
    RunKind.BENCH: N_(
        "Benchmark run `{name}` not found. It was permanently deleted, or it was measured on another "
        "machine and has to be exported there and imported here."
    ),
    RunKind.QUALITY: N_(
        "Quality run `{name}` not found. It was permanently deleted, or it was made on another machine and "
        "has to be exported there and imported here."
    ),
    RunKind.WALK: N_(
        "Walk `{name}` not found. It was permanently deleted, or it was taken on another machine."
    ),
    RunKind.QUIZ: N_(
        "Quiz `{name}` not found. It was permanently deleted, or it was asked on another machine."
    ),
    RunKind.SWEEP: N_(
        "Memory sweep `{name}` not found. It was permanently deleted, or it was measured on another machine."
    ),
}


def show_way_back() -> None:
    st.button(
        _("Back to history"),
        icon=":material/arrow_back:",
        type="tertiary",
        key="history_back",
        on_click=history_state.show_list,
    )


def find(item_id: str, kind: RunKind) -> HistoryEntry | None:
    """The entry of an address, if it can be shown; says why if it can't. Raises StoreError."""
    entries = [entry for entry in resources.history().find([item_id]) if entry.kind is kind]
    show_outcome()
    if not entries:
        text = _(_NOT_FOUND[kind], name=escape(item_id[:40]))
        st.warning(text, icon=":material/search_off:")
        return None
    if entries[0].deleted_at is not None:
        show_deleted(entries[0])
        return None
    return entries[0]


def show_deleted(entry: HistoryEntry) -> None:
    with st.container(horizontal=True, vertical_alignment="center"):
        when = moment(entry.deleted_at) if entry.deleted_at else units.UNKNOWN
        st.warning(
            _("{title} was deleted on {date}.", title=escape(_(entry.title)), date=when),
            icon=":material/delete:",
        )
        st.button(
            _("Restore"),
            icon=":material/restore_from_trash:",
            key=f"history_restore_{entry.id}",
            on_click=history_actions.restore,
            args=((entry,),),
        )


def show_annotation(entry: HistoryEntry) -> None:
    """The tag and the note, if there are any."""
    parts = [f":blue-badge[:material/label: {escape(entry.tag)}]"] if entry.tag else []
    if entry.note:
        parts.append(f":material/sticky_note_2: {escape(entry.note)}")
    if parts:
        st.markdown(" ".join(parts))


def show_entry_actions(entry: HistoryEntry) -> None:
    link = history_state.link_to(**{history_state.QUERY_OF[entry.kind]: entry.id})
    if not is_mine(entry.owner):
        show_link(link)
        return
    note, tag = f"history_note_{entry.id}", f"history_tag_{entry.id}"
    key = f"history_annotate_{entry.id}"
    with st.popover(_("Note and tag"), icon=":material/edit_note:", key=key):
        st.text_area(_("Note"), value=entry.note, key=note, max_chars=2000)
        tag_control(resources.history().tags(), key=tag, value=entry.tag)
        st.button(_("Save"), type="primary", on_click=history_actions.annotate, args=(entry, note, tag))
    show_link(link)
    st.button(
        _("Delete"),
        icon=":material/delete:",
        disabled=entry.state == RunState.RUNNING,
        on_click=history_actions.delete,
        args=((entry,),),
        help=_("You can undo this."),
    )


def wants_replay(entry_id: str) -> bool:
    """Whether the visitor wants to see how the entry came about instead of its result."""
    return st.toggle(
        _("Replay"),
        value=REPLAY in st.query_params,
        key=f"history_replay_{entry_id}",
        help=_("Shows what was recorded with its original timing. Nothing is measured."),
    )


def show_link(url: str) -> None:
    """A popover with the address; its corner holds Streamlit's own copy button."""
    with st.popover(_("Link"), icon=":material/link:", key="history_link"):
        st.markdown(_("Anyone who can reach this dashboard can open this link."))
        st.code(url, language=None, wrap_lines=True)


def moment(at: datetime) -> str:
    """A date and time by the visitor's clock."""
    local = at.astimezone(history_state.zone())
    return f"{local:%Y-%m-%d %H:%M} {local.tzname()}"


def machine_rows(machine: Machine | None) -> dict[str, str]:
    """The known facts of a machine, for a table; as it was when the entry was measured."""
    if machine is None:
        return {_("Machine"): units.UNKNOWN}
    return {
        _("Machine"): escape(machine.host),
        _("GPUs"): escape(", ".join(machine.gpus)) or _("none"),
        _("Driver"): escape(machine.driver or units.UNKNOWN),
        _("CPU"): _(
            "{cpu}, {cores} cores",
            cpu=escape(machine.cpu or units.UNKNOWN),
            cores=units.count(machine.cores),
        ),
        _("Memory"): units.gib(machine.memory_bytes),
        _("System"): f"{escape(machine.platform)}, Python {escape(machine.python)}",
    }
