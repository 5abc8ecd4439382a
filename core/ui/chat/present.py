"""A turn for a room: a tile for each lane with its figures, and while it streams how far it is."""

from datetime import datetime

import streamlit as st

from core import units
from core.domain.turns import Phase, RequestRecord, TurnRecord, utc_now
from core.i18n import N_, Text, _
from core.ui.chat import conversation as conversations
from core.ui.chat.conversation import Conversation
from core.ui.chat.session import ChatState
from core.ui.shared import resources
from core.ui.shared.components import color_of, escape
from core.ui.shared.presenting import Tile, show_board

REFRESH_S = 0.5
_PROMPT_CHARS = 200
_ANSWER_CHARS = 220
_WAITING: dict[Phase, Text] = {
    Phase.QUEUED: N_("Waiting for its turn"),
    Phase.STARTING: N_("Starting the engine"),
    Phase.SETTLING: N_("Waiting until a stopped request is finished"),
    Phase.SENT: N_("Waiting for the first token"),
}


def show_turn_board(conversation: Conversation) -> None:
    """The conversation's last turn as it stands; call it in a fragment that refreshes itself."""
    if not conversation.turns:
        st.info(_("Nothing has been asked yet."), icon=":material/forum:")
        return
    stored = conversation.turns[-1]
    turn = stored if stored.done else resources.meter().turn(stored.id) or stored
    prompt = " ".join(turn.prompt.split())
    shown = prompt if len(prompt) <= _PROMPT_CHARS else f"{prompt[:_PROMPT_CHARS].rstrip()} …"
    st.markdown(f"# {escape(shown)}", anchors=False)
    show_board([_tile(turn, request) for request in turn.requests], key="present_turn")


def show_newest_turn_board() -> None:
    """The last turn of the conversation that something was asked in last. Raises StoreError."""
    newest = resources.store().conversations(1)
    if not newest:
        show_turn_board(Conversation(()))
        return
    show_turn_board(conversations.load(ChatState(conversation_id=newest[0].id)))


def _tile(turn: TurnRecord, request: RequestRecord) -> Tile:
    return Tile(
        name=request.lane.name,
        color=color_of(request.lane.name),
        figures=[
            ("TTFT", units.milliseconds(request.ttft_s)),
            (_("Decode"), units.tok_per_s(request.decode_tok_per_s if _is_done(request) else None)),
            ("E2E", units.milliseconds(request.e2e_s))
            if _is_done(request)
            else (_("Time so far"), units.milliseconds(_elapsed_s(request.sent_at))),
        ],
        progress=_progress(turn, request),
        note=_note(request),
    )


def _is_done(request: RequestRecord) -> bool:
    return request.phase is Phase.DONE


def _elapsed_s(sent_at: datetime | None) -> float | None:
    return None if sent_at is None else max(0.0, (utc_now() - sent_at).total_seconds())


def _progress(turn: TurnRecord, request: RequestRecord) -> float:
    """Chunks by the most tokens that were asked for: an estimate, since a chunk may hold several tokens."""
    if _is_done(request):
        return 1.0
    chunks = len(request.timing.chunk_ns) if request.timing else 0
    return min(1.0, chunks / turn.sampling.max_tokens)


def _note(request: RequestRecord) -> str:
    if request.error:
        return _(request.error.message)
    text = " ".join(request.text.split())
    if _is_done(request):
        return text if len(text) <= _ANSWER_CHARS else f"{text[:_ANSWER_CHARS].rstrip()} …"
    if request.phase in _WAITING:
        return _(_WAITING[request.phase])
    return text if len(text) <= _ANSWER_CHARS else f"… {text[-_ANSWER_CHARS:].lstrip()}"
