"""The sidebar of a conversation page: lanes, mode and sampling. Changing them generates nothing.

A browser's settings for new conversations are kept in a cookie: a reload begins a new session.
"""

import base64
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import streamlit as st

from core.codec import decode, encode_plain
from core.domain.sampling import Sampling
from core.domain.specs import LaneSpec
from core.domain.turn_planning import MAX_LANES, ChatSettings
from core.domain.turns import Mode, TurnRecord
from core.errors import LMDynoError
from core.i18n import N_, _
from core.ui.chat.session import ConversationPage
from core.ui.shared.browser import keep_cookie
from core.ui.shared.components import lane_label

MODE_NAMES = {Mode.ONE_AFTER_ANOTHER: N_("One after another"), Mode.TOGETHER: N_("Together")}

_MOST_CHARS = 800
"""Of a system prompt, which is left out if it is longer: a cookie holds 4 kB."""


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
