"""The chat's sidebar: which lanes, in which mode, with what sampling. Changing them generates nothing."""

import streamlit as st

from core.config import LaneBook
from core.domain.runs import Mode, TurnRecord
from core.domain.sampling import Sampling
from core.ui.components import lane_label
from core.ui.planning import MAX_LANES, ChatSettings

_LANES = "chat_lanes"
_MODE = "chat_mode"
_BASELINE = "chat_baseline"
_SYSTEM = "chat_system_prompt"
_TEMPERATURE = "chat_temperature"
_TOP_P = "chat_top_p"
_TOP_K = "chat_top_k"
_REPETITION = "chat_repetition_penalty"
_SEED = "chat_seed"
_MAX_TOKENS = "chat_max_tokens"
_FIXED = "chat_fixed_length"

MODE_NAMES = {Mode.ONE_AFTER_ANOTHER: "One after another", Mode.TOGETHER: "Together"}


def read(book: LaneBook) -> ChatSettings:
    """What the controls say now, also inside a callback; raises InputError for impossible sampling."""
    state = st.session_state
    return ChatSettings(
        lanes=tuple(lane for lane in book.lanes if lane.name in state[_LANES]),
        mode=Mode(state[_MODE]),
        baseline=state[_BASELINE],
        system_prompt=state[_SYSTEM],
        sampling=Sampling(
            temperature=state[_TEMPERATURE],
            top_p=state[_TOP_P],
            top_k=state[_TOP_K],
            repetition_penalty=state[_REPETITION],
            seed=state[_SEED],
            max_tokens=state[_MAX_TOKENS],
            fixed_length=state[_FIXED],
        ),
    )


def picked() -> list[str]:
    names: list[str] = st.session_state[_LANES]
    return names


def baseline() -> str:
    name: str = st.session_state[_BASELINE]
    return name


def prepare(book: LaneBook, last_turn: TurnRecord | None) -> None:
    """Start values of a new session: those of the conversation that it came back to, else the defaults."""
    sampling = last_turn.sampling if last_turn else Sampling()
    names = [lane.name for lane in book.lanes]
    used = [request.lane.name for request in last_turn.requests] if last_turn else names[:MAX_LANES]
    start = {
        _LANES: used,
        _MODE: last_turn.mode if last_turn else Mode.ONE_AFTER_ANOTHER,
        _BASELINE: names[0],
        _SYSTEM: last_turn.system_prompt if last_turn else "",
        _TEMPERATURE: sampling.temperature,
        _TOP_P: sampling.top_p,
        _TOP_K: sampling.top_k,
        _REPETITION: sampling.repetition_penalty,
        _SEED: sampling.seed,
        _MAX_TOKENS: sampling.max_tokens,
        _FIXED: sampling.fixed_length,
    }
    for key, value in start.items():
        st.session_state.setdefault(key, value)
    # The lanes file may have changed since the session began.
    st.session_state[_LANES] = [name for name in st.session_state[_LANES] if name in names]
    if st.session_state[_BASELINE] not in names:
        st.session_state[_BASELINE] = names[0]


def show(book: LaneBook) -> None:
    names = [lane.name for lane in book.lanes]
    st.pills(
        "Lanes",
        names,
        selection_mode="multi",
        format_func=lane_label,
        key=_LANES,
        help=f"1 to {MAX_LANES} columns. Each keeps its own history.",
        persist_state="session",
    )
    st.segmented_control(
        "Run",
        list(Mode),
        format_func=MODE_NAMES.__getitem__,
        required=True,
        key=_MODE,
        help="Lanes on one machine slow each other down: one after another gives each lane's own speed, "
        "together shows them in competition.",
        persist_state="session",
    )
    st.selectbox(
        "Baseline lane",
        names,
        key=_BASELINE,
        help="The speed of the other lanes is given as a multiple of this lane's.",
        persist_state="session",
    )
    st.text_area("System prompt", key=_SYSTEM, height=80, placeholder="None", persist_state="session")
    with st.expander("Sampling", icon=":material/tune:"):
        _show_sampling()


def _show_sampling() -> None:
    st.number_input(
        "Max tokens",
        min_value=1,
        max_value=131_072,
        step=64,
        key=_MAX_TOKENS,
        persist_state="session",
        help="The answer ends here at the latest.",
    )
    st.toggle(
        "Fixed length",
        key=_FIXED,
        persist_state="session",
        help="Exactly so many tokens, past any end: lanes then do the same amount of work.",
    )
    st.slider(
        "Temperature",
        0.0,
        2.0,
        step=0.05,
        key=_TEMPERATURE,
        persist_state="session",
        help="0 is greedy: always the most likely token; top-p, top-k and seed then have no effect.",
    )
    st.slider("Top-p", 0.01, 1.0, step=0.01, key=_TOP_P, persist_state="session")
    st.number_input(
        "Top-k", min_value=0, max_value=1000, key=_TOP_K, persist_state="session", help="0 keeps all tokens."
    )
    st.slider("Repetition penalty", 0.5, 2.0, step=0.05, key=_REPETITION, persist_state="session")
    st.number_input("Seed", min_value=0, value=None, key=_SEED, persist_state="session", placeholder="Random")
