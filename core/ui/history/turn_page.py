"""A turn's page: its answers and figures as the chat shows them, and what it was measured with."""

import streamlit as st

from core import units
from core.access.guard import is_read_only
from core.codec import encode_plain
from core.domain.history import RunKind
from core.domain.turns import TurnRecord
from core.i18n import _
from core.ui.chat.session import CHAT, CONVERSATION, VISION, ConversationPage
from core.ui.chat.turn import show_turn
from core.ui.history import entry as history_entry
from core.ui.replay.views import show_turn_replay
from core.ui.shared import resources
from core.ui.shared.components import escape
from core.ui.shared.visitor import exporting

EXPORT_SCHEMA_VERSION = 1


def show_turn_page(turn_id: str) -> None:
    """Raises StoreError."""
    history_entry.show_way_back()
    entry = history_entry.find(turn_id, RunKind.CHAT)
    turn = resources.store().turn(turn_id) if entry else None
    if entry is None or turn is None:
        return
    with st.container(horizontal=True, vertical_alignment="center"):
        if not is_read_only():  # there is no such page then
            st.page_link(
                page_of(turn).file,
                label=_("Open the conversation"),
                icon=":material/forum:",
                query_params={CONVERSATION: turn.conversation_id},
                width="content",
            )
        st.download_button(
            _("Export JSON"),
            exporting(f"{RunKind.CHAT} {turn.id}", lambda: turn_json(turn)),
            file_name=f"turn-{turn.id}.json",
            mime="application/json",
            icon=":material/download:",
            on_click="ignore",
        )
        history_entry.show_entry_actions(entry)
    history_entry.show_annotation(entry)
    st.caption(f"{history_entry.moment(turn.created_at)} · {escape(entry.host or units.UNKNOWN)}")
    if turn.done and history_entry.wants_replay(turn.id):
        show_turn_replay(turn)
    elif turn.done:
        show_turn([turn], baseline=None, latest=True)
    else:
        st.info(
            _("Answers are still streaming. To follow them, open the conversation."),
            icon=":material/pending:",
        )
    _show_environment(turn)


def page_of(turn: TurnRecord) -> ConversationPage:
    """The page on which the turn's conversation goes on: one with images where those are shown."""
    return VISION if any(request.image_count for request in turn.requests) else CHAT


def turn_json(turn: TurnRecord) -> bytes:
    """The turn with all its texts and timestamps."""
    return encode_plain({"schema_version": EXPORT_SCHEMA_VERSION, "turn": turn})


def _show_environment(turn: TurnRecord) -> None:
    with st.expander(_("Environment"), icon=":material/developer_board:"):
        st.table(history_entry.machine_rows(turn.machine), border="horizontal", width="content")
        st.table(
            {
                _("Lane"): [escape(request.lane.name) for request in turn.requests],
                _("Engine"): [escape(request.engine_version or units.UNKNOWN) for request in turn.requests],
                _("Device"): [escape(request.device or units.UNKNOWN) for request in turn.requests],
                _("Served model"): [
                    escape(request.served_model or units.UNKNOWN) for request in turn.requests
                ],
            },
            border="horizontal",
            hide_index=True,
        )
