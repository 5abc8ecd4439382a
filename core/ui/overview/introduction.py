"""An introduction to LMDyno, its figures and the next steps; stays closed in a browser that closed it."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import streamlit as st

from core.i18n import N_, Text, _
from core.replay.recording import SUFFIX
from core.settings import load_settings
from core.ui.replay.player import PLAY
from core.ui.shared.browser import keep_cookie

_COOKIE = "lmdyno_introduction"
_CLOSED, _OPEN = "closed", "open"
_CHOICE = "introduction"
"""Session state: what the visitor chose in this session."""


@dataclass(frozen=True, slots=True)
class _Step:
    page: str
    icon: str
    label: Text
    explanation: Text
    query: Mapping[str, str] = field(default_factory=dict)


_DEMO = _Step(
    "pages/recordings.py",
    ":material/movie:",
    N_("Watch the 60-second demo"),
    N_("A recording from a GPU, with its original timing."),
    {PLAY: "1"},
)
_STEPS = (
    _Step(
        "pages/chat.py",
        ":material/forum:",
        N_("Ask all lanes a question"),
        N_("Answers stream side by side with their latency."),
    ),
    _Step(
        "pages/benchmark.py",
        ":material/speed:",
        N_("Measure under load"),
        N_("A quick look takes about a minute and fills the scorecard."),
    ),
    _Step(
        "pages/quality.py",
        ":material/fact_check:",
        N_("Compare quality"),
        N_("What speed costs: answers beside those of a reference lane."),
    ),
    _Step(
        "pages/memory.py",
        ":material/memory:",
        N_("Predict what fits"),
        N_("Weights, KV cache and context of a model on a GPU, before you load it."),
    ),
    _Step(
        "pages/engines.py",
        ":material/hiking:",
        N_("Take the walk"),
        N_("From transformers to an API server, on this machine: tab **Walk** of Engines."),
    ),
)
_IN_A_ROW = 3


def show() -> None:
    chosen = st.session_state.get(_CHOICE)
    if chosen:
        keep_cookie(_COOKIE, chosen)
    else:
        st.empty()
    if (chosen or st.context.cookies.get(_COOKIE)) == _CLOSED:
        st.button(
            _("What is LMDyno?"),
            icon=":material/help:",
            type="tertiary",
            key="introduction_open",
            on_click=_choose,
            args=(_OPEN,),
        )
        return
    with st.container(border=True):
        _show_text()
        _show_steps()
        with st.container(horizontal_alignment="right"):
            st.button(
                _("Close"),
                icon=":material/close:",
                type="tertiary",
                key="introduction_close",
                on_click=_choose,
                args=(_CLOSED,),
            )


def _show_text() -> None:
    st.markdown(
        _(
            "**LMDyno runs the same prompts on several LLM inference engines and measures how fast each "
            "one answers, how much memory and energy it uses, and what that costs in quality.**"
        )
    )
    lines = (
        _("**TTFT**, time to first token: how long until the answer begins. Lower is better."),
        _("**Decode speed**: tokens per second once the answer has begun. Higher is better."),
        _(
            "**Memory**: the peak of the engine's processes. LMDeploy's engines reserve GPU memory for the "
            "KV cache when they start, so it depends on their settings."
        ),
    )
    st.markdown("\n".join(f"- {line}" for line in lines))


def _show_steps() -> None:
    with st.grid(_IN_A_ROW, min_column_width=200):
        for step in (*([_DEMO] if _has_recording() else []), *_STEPS):
            with st.container(gap=None):
                st.page_link(step.page, label=_(step.label), icon=step.icon, query_params=dict(step.query))
                st.caption(_(step.explanation))


def _has_recording() -> bool:
    return any(load_settings().recordings_dir.glob(f"*{SUFFIX}"))


def _choose(choice: str) -> None:
    st.session_state[_CHOICE] = choice
