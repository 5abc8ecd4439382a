"""What LMDyno is, how to read its figures, and what to do next; stays closed in a browser that closed it."""

import streamlit as st

from core.i18n import N_, _
from core.ui.shared.browser import keep_cookie

_COOKIE = "lmdyno_introduction"
_CLOSED, _OPEN = "closed", "open"
_CHOICE = "introduction"
"""Session state: what the visitor chose in this session."""
_STEPS = (
    (
        "pages/chat.py",
        ":material/forum:",
        N_("Ask all lanes a question"),
        N_("Answers stream side by side with their latency."),
    ),
    (
        "pages/benchmark.py",
        ":material/speed:",
        N_("Measure under load"),
        N_("A quick look takes about a minute and fills the scorecard."),
    ),
    (
        "pages/quality.py",
        ":material/fact_check:",
        N_("See what speed costs in quality"),
        N_("Answers are compared with those of a reference lane."),
    ),
    (
        "pages/memory.py",
        ":material/memory:",
        N_("Predict what fits"),
        N_("Weights, KV cache and context of a model on a GPU, before you load it."),
    ),
)


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


def _show_text() -> None:
    with st.container(horizontal=True, vertical_alignment="top"):
        st.markdown(
            _(
                "**LMDyno runs the same prompts on several LLM inference engines and measures how fast each "
                "one answers, how much memory and energy it uses, and what that costs in quality.**"
            ),
            width="stretch",
        )
        st.button(
            _("Close"),
            icon=":material/close:",
            type="tertiary",
            key="introduction_close",
            on_click=_choose,
            args=(_CLOSED,),
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
    with st.grid(len(_STEPS), min_column_width=170):
        for page, icon, label, explanation in _STEPS:
            with st.container(gap=None):
                st.page_link(page, label=_(label), icon=icon)
                st.caption(_(explanation))


def _choose(choice: str) -> None:
    st.session_state[_CHOICE] = choice
