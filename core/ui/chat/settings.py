"""A room's sidebar: which lanes, in which mode, with what sampling. Changing them generates nothing."""

from collections.abc import Sequence

import streamlit as st

from core.domain.sampling import Sampling
from core.domain.specs import LaneSpec
from core.domain.turn_planning import MAX_LANES, ChatSettings
from core.domain.turns import Mode, TurnRecord
from core.ui.chat.conversation_page import ConversationPage
from core.ui.shared.components import lane_label

MODE_NAMES = {Mode.ONE_AFTER_ANOTHER: "One after another", Mode.TOGETHER: "Together"}


def read(page: ConversationPage, lanes: Sequence[LaneSpec]) -> ChatSettings:
    """What the controls say now, also inside a callback; raises InputError for impossible sampling."""
    state, key = st.session_state, page.key
    return ChatSettings(
        lanes=picked_lanes(page, lanes),
        mode=Mode(state[key("mode")]),
        baseline=state[key("baseline")],
        system_prompt=state[key("system_prompt")],
        sampling=Sampling(
            temperature=state[key("temperature")],
            top_p=state[key("top_p")],
            top_k=state[key("top_k")],
            repetition_penalty=state[key("repetition_penalty")],
            seed=state[key("seed")],
            max_tokens=state[key("max_tokens")],
            fixed_length=state[key("fixed_length")],
        ),
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
    """Start values of a new session: those of the conversation that it came back to, else the defaults.

    `lanes` are the room's, at least one.
    """
    sampling = last_turn.sampling if last_turn else Sampling()
    names = [lane.name for lane in lanes]
    at_first = page.picked_at_first(lanes)
    start = {
        "lanes": [request.lane.name for request in last_turn.requests] if last_turn else at_first,
        "mode": last_turn.mode if last_turn else Mode.ONE_AFTER_ANOTHER,
        "baseline": at_first[0],
        "system_prompt": last_turn.system_prompt if last_turn else "",
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k,
        "repetition_penalty": sampling.repetition_penalty,
        "seed": sampling.seed,
        "max_tokens": sampling.max_tokens,
        "fixed_length": sampling.fixed_length,
    }
    for what, value in start.items():
        st.session_state.setdefault(page.key(what), value)
    # The lanes file may have changed since the session began.
    st.session_state[page.key("lanes")] = [name for name in picked(page) if name in names]
    if baseline(page) not in names:
        st.session_state[page.key("baseline")] = names[0]


def show(page: ConversationPage, lanes: Sequence[LaneSpec]) -> None:
    names = [lane.name for lane in lanes]
    st.pills(
        "Lanes",
        names,
        selection_mode="multi",
        format_func=lane_label,
        key=page.key("lanes"),
        help=f"1 to {MAX_LANES} columns. Each keeps its own history.",
        persist_state="session",
    )
    st.segmented_control(
        "Run",
        list(Mode),
        format_func=MODE_NAMES.__getitem__,
        required=True,
        key=page.key("mode"),
        help="Lanes on one machine slow each other down: one after another gives each lane's own speed, "
        "together shows them in competition.",
        persist_state="session",
    )
    st.selectbox(
        "Baseline lane",
        names,
        key=page.key("baseline"),
        help="The speed of the other lanes is given as a multiple of this lane's.",
        persist_state="session",
    )
    st.text_area(
        "System prompt",
        key=page.key("system_prompt"),
        height=80,
        placeholder="None",
        persist_state="session",
    )
    with st.expander("Sampling", icon=":material/tune:"):
        _show_sampling(page)


def _show_sampling(page: ConversationPage) -> None:
    st.number_input(
        "Max tokens",
        min_value=1,
        max_value=131_072,
        step=64,
        key=page.key("max_tokens"),
        persist_state="session",
        help="The answer ends here at the latest.",
    )
    st.toggle(
        "Fixed length",
        key=page.key("fixed_length"),
        persist_state="session",
        help="Exactly so many tokens, past any end: lanes then do the same amount of work.",
    )
    st.slider(
        "Temperature",
        0.0,
        2.0,
        step=0.05,
        key=page.key("temperature"),
        persist_state="session",
        help="0 is greedy: always the most likely token; top-p, top-k and seed then have no effect.",
    )
    st.slider("Top-p", 0.01, 1.0, step=0.01, key=page.key("top_p"), persist_state="session")
    st.number_input(
        "Top-k",
        min_value=0,
        max_value=1000,
        key=page.key("top_k"),
        persist_state="session",
        help="0 keeps all tokens.",
    )
    st.slider(
        "Repetition penalty",
        0.5,
        2.0,
        step=0.05,
        key=page.key("repetition_penalty"),
        persist_state="session",
    )
    st.number_input(
        "Seed",
        min_value=0,
        value=None,
        key=page.key("seed"),
        persist_state="session",
        placeholder="Random",
    )
