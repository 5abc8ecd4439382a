"""The buttons of a conversation page. All are widget callbacks, which Streamlit runs once per click.

Starting and stopping a turn are acts upon the meter. Drawing never starts or stops anything.
"""

import logging
from dataclasses import dataclass
from threading import Lock

import streamlit as st

from core import units
from core.domain.conversation import StoredImage
from core.domain.turn_planning import plan_turn
from core.domain.turns import ErrorInfo, FinishReason, TurnPlan, TurnRecord
from core.errors import AccessDenied, EngineError, LMDynoError
from core.i18n import N_, _
from core.models.context import estimated_tokens, exceeded_context
from core.ui.chat import images as chat_images
from core.ui.chat import session as chat_session
from core.ui.chat import settings as chat_controls
from core.ui.chat.session import ConversationPage
from core.ui.shared import resources
from core.ui.shared.images import refuse_misfits

log = logging.getLogger(__name__)

_sending = Lock()
"""Makes "one turn at a time" hold: Streamlit lets a new script thread of a session begin before the old one
has ended."""


def submit(page: ConversationPage) -> None:
    """Send what the prompt holds with the attachments; images without a question become attachments.

    What can't be sent is put back into the prompt.
    """
    entered = st.session_state[page.key("prompt")]
    if entered is None:
        return
    text = entered if isinstance(entered, str) else entered.text
    chat = chat_session.chat(page)
    chat.problems = ()
    if not isinstance(entered, str):
        chat_images.add_files(page, entered.files)
        if not text.strip() and entered.files:
            return
    if chat.problems or not send(page, text, chat.attachments):
        st.session_state[page.key("prompt")] = text
    else:
        chat.attachments = ()


def ask(page: ConversationPage, prompt: str) -> None:
    """Send a prompt that was not written into the prompt's field."""
    send(page, prompt)


def send(
    page: ConversationPage, prompt: str, images: tuple[StoredImage, ...] = (), *, replaces: str | None = None
) -> bool:
    """Start a turn with the settings of the moment, unless one of the conversation still runs.

    A problem is kept for the page to show, and so is a warning about a prompt that is probably too long,
    which is sent when it comes again. Returns whether the turn was started.
    """
    chat = chat_session.chat(page)
    chat.problems, chat.warning = (), None
    with _sending:
        conversation = chat_session.load(chat)
        if conversation.running:
            text = _("Lanes are still answering. Wait, or press Esc to stop them.")
            st.toast(text, icon=":material/info:")
            return False
        try:
            plan = plan_turn(
                prompt,
                chat_controls.read(page, resources.lanes().lanes),
                conversation_id=chat.conversation_id,
                turns=conversation.turns,
                images=images,
                replaces=replaces,
            )
            refuse_misfits(plan)
            if chat.warned_of != prompt and (warning := _probably_too_long(plan)):
                chat.warning, chat.warned_of = warning, prompt
                return False
            start_engines([request.lane.name for request in plan.requests if request.lane.is_local])
            resources.meter().start(plan)
            chat_session.note_asked()
        except LMDynoError as error:
            chat.problems = (ErrorInfo.of(error),)
            return False
    chat_session.show_address(chat.conversation_id)
    return True


def _probably_too_long(plan: TurnPlan) -> ErrorInfo | None:
    """The lanes whose context the conversation exceeds by its length; None if it fits."""
    exceeded = {
        request.lane.name: context
        for request in plan.requests
        if (context := exceeded_context(request.lane, request.messages))
    }
    if not exceeded:
        return None
    longest = max(estimated_tokens(request.messages) for request in plan.requests)
    lanes = ", ".join(f"{lane} ({units.count(context)})" for lane, context in exceeded.items())
    return ErrorInfo(
        "prompt-probably-too-long",
        N_(
            "By its length, the conversation has about {tokens} tokens, more than the context of {lanes}.",
            tokens=units.count(longest),
            lanes=lanes,
        ),
        N_("Shorten the prompt, or send it once more as it is."),
    )


def start_engines(lanes: list[str]) -> None:
    """Bring up what isn't running. An engine that can't start becomes its own lane's error in the turn."""
    for lane in lanes:
        try:
            resources.manager().ensure(lane)
        except (AccessDenied, EngineError) as error:
            log.warning("engine not started lane=%s code=%s", lane, error.code)


@dataclass(frozen=True, slots=True)
class Asked:
    """What a turn's buttons need of it.

    Streamlit keeps a button's arguments until its session ends, and answers with their timestamps are large.
    """

    turn_id: str
    prompt: str
    images: tuple[StoredImage, ...]

    @classmethod
    def of(cls, turn: TurnRecord) -> "Asked":
        return cls(turn.id, turn.prompt, turn.images)


def regenerate(page: ConversationPage, asked: Asked) -> None:
    chat_session.chat(page).warned_of = asked.prompt
    send(page, asked.prompt, asked.images, replaces=asked.turn_id)


def repeat_key(turn_id: str) -> str:
    return chat_session.key_of("repeats", turn_id)


def repeat(page: ConversationPage, asked: Asked) -> None:
    """Ask the same several times more, one after another."""
    times: int = st.session_state[repeat_key(asked.turn_id)]
    chat_session.chat(page).warned_of = asked.prompt
    if send(page, asked.prompt, asked.images, replaces=asked.turn_id):
        chat_session.chat(page).repeats_left = times - 1


def go_on(page: ConversationPage) -> None:
    """Ask once more if repeats are left; the answers of the last run are there. Not after a failure."""
    chat = chat_session.chat(page)
    if chat.repeats_left < 1:
        return
    turn = chat_session.load(chat).turns[-1]
    ends = (FinishReason.STOP, FinishReason.LENGTH)
    if not any(request.finish_reason in ends for request in turn.requests):
        chat.repeats_left = 0
    elif send(page, turn.prompt, turn.images, replaces=turn.id):
        chat.repeats_left -= 1


def edited_key(turn_id: str) -> str:
    return chat_session.key_of("edited_prompt", turn_id)


def send_edited(page: ConversationPage, asked: Asked) -> None:
    send(page, st.session_state[edited_key(asked.turn_id)], asked.images, replaces=asked.turn_id)


def stop(page: ConversationPage, turn_ids: list[str]) -> None:
    """The explicit act: every lane of these turns ends, its text so far is kept; nothing is repeated."""
    chat_session.chat(page).repeats_left = 0
    for turn_id in turn_ids:
        resources.meter().cancel(turn_id)
