"""What the chat's buttons do. All are widget callbacks: Streamlit runs each of them exactly once a click.

Starting and stopping a turn are acts upon the meter. Drawing never starts or stops anything.
"""

import logging
from threading import Lock

import streamlit as st

from core.domain.runs import ErrorInfo, TurnRecord
from core.errors import EngineError, LMDynoError
from core.ui import chat_controls, conversations, resources, state
from core.ui.planning import plan_turn, planned_record

log = logging.getLogger(__name__)

PROMPT = "chat_prompt"

_sending = Lock()
"""Makes "one turn at a time" hold: a disabled input is only the browser's promise, and Streamlit lets a new
script thread of a session begin before the old one has ended."""


def submit() -> None:
    send(st.session_state[PROMPT])


def send(prompt: str, replaces: str | None = None) -> None:
    """Start a turn with the settings of the moment, unless one of the conversation still runs.

    A problem is kept for the page to show.
    """
    chat = state.chat()
    chat.problem = None
    with _sending:
        conversation = conversations.load(chat)
        if conversation.running:
            return
        try:
            plan = plan_turn(
                prompt,
                chat_controls.read(resources.lanes()),
                conversation_id=chat.conversation_id,
                turns=conversation.turns,
                replaces=replaces,
            )
            start_engines([request.lane.name for request in plan.requests if request.lane.is_local])
            resources.meter().start(plan)
        except LMDynoError as error:
            chat.problem = ErrorInfo.of(error)
            return
        chat.turns[plan.id] = planned_record(plan)
        resources.started().add(plan.conversation_id, plan.id)
    state.show_address(chat.conversation_id)


def start_engines(lanes: list[str]) -> None:
    """Bring up what isn't running. An engine that can't start becomes its own lane's error in the turn."""
    for lane in lanes:
        try:
            resources.manager().ensure(lane)
        except EngineError as error:
            log.warning("engine not started lane=%s code=%s", lane, error.code)


def regenerate(turn: TurnRecord) -> None:
    send(turn.prompt, replaces=turn.id)


def edited_key(turn: TurnRecord) -> str:
    return f"edited_prompt_{turn.id}"


def send_edited(turn: TurnRecord) -> None:
    send(st.session_state[edited_key(turn)], replaces=turn.id)


def stop(turn_ids: list[str]) -> None:
    """The explicit act: every lane of these turns ends, its text so far is kept."""
    for turn_id in turn_ids:
        resources.meter().cancel(turn_id)
