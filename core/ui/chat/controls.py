"""The controls of a conversation page: the next turn's settings in the sidebar, and what the buttons do.

Changing lanes, mode or sampling generates nothing. A browser's settings for new conversations are kept in a
cookie: a reload begins a new session. What the buttons do are widget callbacks, which Streamlit runs once per
click. Starting and stopping a turn are acts upon the meter. Drawing never starts or stops anything.
"""

import base64
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from threading import Lock
from typing import Any

import streamlit as st

from core import units
from core.codec import decode, encode_plain
from core.domain.conversation import Sampling, StoredImage
from core.domain.specs import LaneSpec
from core.domain.turns import (
    MAX_LANES,
    ChatSettings,
    ErrorInfo,
    FinishReason,
    Mode,
    TurnPlan,
    TurnRecord,
    plan_turn,
)
from core.errors import AccessDenied, EngineError, LMDynoError
from core.i18n import N_, _
from core.models.context import estimated_tokens, exceeded_context
from core.ui.chat import images as chat_images
from core.ui.chat import session as chat_session
from core.ui.chat.session import ConversationPage
from core.ui.shared import resources
from core.ui.shared.browser import keep_cookie
from core.ui.shared.components import errors_as_toasts, lane_label, refuse_misfits

log = logging.getLogger(__name__)

MODE_NAMES = {Mode.ONE_AFTER_ANOTHER: N_("One after another"), Mode.TOGETHER: N_("Together")}

_MOST_CHARS = 800
"""Of a system prompt, which is left out if it is longer: a cookie holds 4 kB."""

_sending = Lock()
"""Makes "one turn at a time" hold: Streamlit lets a new script thread of a session begin before the old one
has ended."""


def read(page: ConversationPage, lanes: Sequence[LaneSpec]) -> ChatSettings:
    """The settings of the controls, also inside a callback; raises InputError for impossible sampling."""
    return ChatSettings(
        lanes=picked_lanes(page, lanes),
        mode=Mode(st.session_state[page.key("mode")]),
        baseline=baseline(page),
        system_prompt=st.session_state[page.key("system_prompt")],
        sampling=_sampling(page),
    )


def picked(page: ConversationPage) -> list[str]:
    names: list[str] = st.session_state[page.key("lanes")]
    return names


def picked_lanes(page: ConversationPage, lanes: Sequence[LaneSpec]) -> tuple[LaneSpec, ...]:
    """Of `lanes` those that are picked, in their own order."""
    names = picked(page)
    return tuple(lane for lane in lanes if lane.name in names)


def baseline(page: ConversationPage) -> str:
    name: str = st.session_state[page.key("baseline")]
    return name


def prepare(page: ConversationPage, lanes: Sequence[LaneSpec], last_turn: TurnRecord | None) -> None:
    """Start values of a session: those of the conversation that it came back to, else the browser's own.

    `lanes` are those of the page, at least one.
    """
    names = [lane.name for lane in lanes]
    if page.key("lanes") not in st.session_state:
        _start(page, lanes, last_turn)
    # The lanes file may have changed since the session began.
    st.session_state[page.key("lanes")] = [name for name in picked(page) if name in names]
    among = picked(page) or names
    if st.session_state.get(page.key("baseline")) not in among:
        st.session_state[page.key("baseline")] = next(name for name in names if name in among)


def show(page: ConversationPage, lanes: Sequence[LaneSpec]) -> None:
    names = [lane.name for lane in lanes]
    st.pills(
        _("Lanes"),
        names,
        selection_mode="multi",
        format_func=lane_label,
        help=_("1 to {most} columns. Each lane keeps its own history.", most=MAX_LANES),
        **_kept(page, "lanes"),
    )
    st.segmented_control(
        _("Run"),
        list(Mode),
        format_func=lambda mode: _(MODE_NAMES[mode]),
        required=True,
        help=_(
            "Lanes on one machine slow each other down. One after another gives each lane's own speed; "
            "together shows them in competition."
        ),
        **_kept(page, "mode"),
    )
    st.selectbox(
        _("Baseline lane"),
        [name for name in names if name in picked(page)] or names,
        help=_("The speed of the other lanes is given as a multiple of this lane's speed."),
        **_kept(page, "baseline"),
    )
    st.text_area(_("System prompt"), height=80, placeholder=_("None"), **_kept(page, "system_prompt"))
    with st.expander(_("Sampling"), icon=":material/tune:"):
        _show_sampling(page)
    remember(
        page,
        Remembered(
            lanes=tuple(picked(page)),
            mode=Mode(st.session_state[page.key("mode")]),
            baseline=baseline(page),
            system_prompt=st.session_state[page.key("system_prompt")],
            sampling=_sampling(page),
        ),
    )


def _start(page: ConversationPage, lanes: Sequence[LaneSpec], last_turn: TurnRecord | None) -> None:
    at_first = page.picked_at_first(lanes)
    kept = Remembered(
        lanes=tuple(at_first),
        mode=Mode.ONE_AFTER_ANOTHER,
        baseline=at_first[0],
        system_prompt="",
        sampling=Sampling(),
    )
    if last_turn:
        kept = Remembered(
            lanes=tuple(request.lane.name for request in last_turn.requests),
            mode=last_turn.mode,
            baseline=at_first[0],
            system_prompt=last_turn.system_prompt,
            sampling=last_turn.sampling,
        )
    elif recalled := recall(page):
        known = {lane.name for lane in lanes}
        kept = recalled if known & set(recalled.lanes) else kept
    sampling = kept.sampling
    values = {
        "lanes": list(kept.lanes),
        "mode": kept.mode,
        "baseline": kept.baseline,
        "system_prompt": kept.system_prompt,
        "temperature": float(sampling.temperature),
        "top_p": float(sampling.top_p),
        "top_k": sampling.top_k,
        "repetition_penalty": float(sampling.repetition_penalty),
        "seed": sampling.seed,
        "max_tokens": sampling.max_tokens,
        "fixed_length": sampling.fixed_length,
    }
    for what, value in values.items():
        st.session_state.setdefault(page.key(what), value)


def _sampling(page: ConversationPage) -> Sampling:
    state, key = st.session_state, page.key
    return Sampling(
        temperature=state[key("temperature")],
        top_p=state[key("top_p")],
        top_k=state[key("top_k")],
        repetition_penalty=state[key("repetition_penalty")],
        seed=state[key("seed")],
        max_tokens=state[key("max_tokens")],
        fixed_length=state[key("fixed_length")],
    )


def _kept(page: ConversationPage, what: str) -> dict[str, Any]:
    """The arguments that all of these widgets have in common."""
    return {
        "key": page.key(what),
        "persist_state": "session",
        "on_change": note_change,
        "args": (page,),
    }


def _show_sampling(page: ConversationPage) -> None:
    st.number_input(
        _("Max tokens"),
        min_value=1,
        max_value=131_072,
        step=64,
        help=_("Maximum length of an answer."),
        **_kept(page, "max_tokens"),
    )
    st.toggle(
        _("Fixed length"),
        help=_(
            "Generate exactly this many tokens, ignoring end-of-sequence, so that all lanes do equal work."
        ),
        **_kept(page, "fixed_length"),
    )
    st.slider(
        _("Temperature"),
        0.0,
        2.0,
        step=0.05,
        help=_("0 is greedy: always the most likely token. Top-p, top-k, and seed then have no effect."),
        **_kept(page, "temperature"),
    )
    st.slider("Top-p", 0.01, 1.0, step=0.01, **_kept(page, "top_p"))
    st.number_input(
        "Top-k", min_value=0, max_value=1000, help=_("0 keeps all tokens."), **_kept(page, "top_k")
    )
    st.slider(_("Repetition penalty"), 0.5, 2.0, step=0.05, **_kept(page, "repetition_penalty"))
    st.number_input(_("Seed"), min_value=0, value=None, placeholder=_("Random"), **_kept(page, "seed"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Remembered:
    """The last settings of this browser."""

    lanes: tuple[str, ...]
    mode: Mode
    baseline: str | None
    system_prompt: str
    sampling: Sampling


def recall(page: ConversationPage) -> Remembered | None:
    """The settings that the browser keeps; None if there are none, or invalid ones."""
    cookie = st.context.cookies.get(_name(page))
    if not isinstance(cookie, str):
        return None
    try:
        return decode(Remembered, base64.urlsafe_b64decode(cookie))
    except (ValueError, LMDynoError):
        return None


def note_change(page: ConversationPage) -> None:
    """Callback of the settings' widgets: only what somebody chose is worth remembering."""
    st.session_state[page.key("settings_changed")] = True


def remember(page: ConversationPage, settings: Remembered) -> None:
    """Draw the script that keeps the settings, once any was changed."""
    if not st.session_state.get(page.key("settings_changed")):
        st.empty()
        return
    if len(settings.system_prompt) > _MOST_CHARS:
        settings = replace(settings, system_prompt="")
    keep_cookie(_name(page), base64.urlsafe_b64encode(encode_plain(settings)).decode())


def _name(page: ConversationPage) -> str:
    return f"lmdyno_{page.name}"


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
    page: ConversationPage,
    prompt: str,
    images: tuple[StoredImage, ...] = (),
    *,
    replaces: str | None = None,
    repeating: bool = False,
) -> bool:
    """Start a turn with the settings of the moment, unless one of the conversation still runs.

    It ends what was left of earlier repeats, unless it is one of them (`repeating`).

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
        if not repeating:
            chat.repeats_left = 0
        try:
            plan = plan_turn(
                prompt,
                read(page, resources.lanes().lanes),
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
    elif send(page, turn.prompt, turn.images, replaces=turn.id, repeating=True):
        chat.repeats_left -= 1


def edited_key(turn_id: str) -> str:
    return chat_session.key_of("edited_prompt", turn_id)


def send_edited(page: ConversationPage, asked: Asked) -> None:
    send(page, st.session_state[edited_key(asked.turn_id)], asked.images, replaces=asked.turn_id)


def stop(page: ConversationPage, turn_ids: list[str]) -> None:
    """The explicit act: every lane of these turns ends, its text so far is kept; nothing is repeated."""
    chat_session.chat(page).repeats_left = 0
    with errors_as_toasts():
        for turn_id in turn_ids:
            resources.meter().cancel(turn_id)
