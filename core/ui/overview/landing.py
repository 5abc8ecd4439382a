"""What the overview begins with: an introduction to LMDyno, demo weights that are being made, and the lanes.

The introduction stays closed in a browser that closed it. Each lane has a card for what it is and does.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import streamlit as st

from core import units
from core.domain.specs import LaneSpec
from core.engines.manager import EngineStatus
from core.engines.registry import EngineState
from core.i18n import N_, Text, _
from core.jobs.registry import Jobs, JobState, JobStatus
from core.models import job as models_job
from core.replay.recording import SUFFIX
from core.settings import load_settings
from core.ui.engines.status import (
    REFRESH_S,
    finishing_badge,
    reach_badge,
    reach_of,
    show_lane,
    show_nodes,
    show_stage,
    show_unfit,
    start_button,
    state_badge,
)
from core.ui.replay import PLAY
from core.ui.shared import resources
from core.ui.shared.browser import keep_cookie
from core.ui.shared.components import describe_lane, escape, in_a_line, lane_label, prose
from core.ui.shared.jobs import show_job, show_job_log

_COOKIE = "lmdyno_introduction"
_CLOSED, _OPEN = "closed", "open"
_CHOICE = "introduction"
"""Session state: what the visitor chose in this session."""

_CARD_PX = 260
_MOST_IN_A_ROW = 4


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


def show_introduction() -> None:
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


def show_demo_progress() -> None:
    """Nothing unless demo weights are being prepared or couldn't be."""
    if _preparing() is None:
        st.empty()
        return
    _show_progress()


@st.fragment(run_every=REFRESH_S)
def _show_progress() -> None:
    status = _preparing()
    if status is None:
        st.rerun()
    with st.container(border=True):
        show_job(status)
        if status.state is JobState.FAILED:
            show_job_log(status)
        else:
            st.markdown(_usable())


def _preparing() -> JobStatus | None:
    """The job that makes weights which lanes wait for, while it goes on or after it failed."""
    dashboard = resources.resources()
    newest = next(iter(Jobs(dashboard.settings).statuses(models_job.PREPARING_DEMOS)), None)
    if newest is None or newest.state in (JobState.DONE, JobState.CANCELLED):
        return None
    if newest.state is JobState.FAILED and not models_job.are_demos_wanted(
        dashboard.settings, resources.lanes().lanes
    ):
        return None
    return newest


def _usable() -> str:
    """The lanes that work already; a demo model's start by themselves as soon as their files are there."""
    ready = [
        status.name for status in resources.manager().statuses() if status.state is EngineState.HEALTHY
    ] + [lane.name for lane in resources.lanes().lanes if not lane.is_local]
    if ready:
        return _(
            "Ready to use now: {lanes}, and all pages. Other lanes start by themselves when their weights "
            "are there.",
            lanes=", ".join(f"**{escape(name)}**" for name in ready),
        )
    return _(
        "Lanes start by themselves when their weights are there, the first one before the job ends. "
        "Meanwhile you can use all pages, such as the KV cache explorer on the Memory page, and send "
        "prompts, which wait for their engines."
    )


def show_lanes() -> None:
    st.subheader(_("Lanes"), anchor=False)
    _show_cards()
    show_nodes()


@st.fragment(run_every=REFRESH_S)
def _show_cards() -> None:
    lanes = resources.lanes().lanes
    with st.grid(min(len(lanes), _MOST_IN_A_ROW), min_column_width=_CARD_PX):
        for lane in lanes:
            with st.container(border=True, height="stretch", key=f"overview_lane_{lane.name}"):
                if lane.is_local:
                    _show_engine(resources.manager().status(lane.name))
                else:
                    _show_server(lane)


def _show_engine(status: EngineStatus) -> None:
    st.markdown(f"{lane_label(status.name)}  \n{_engine_badge(status)}")
    show_lane(status)
    match status.state:
        case EngineState.STARTING:
            show_stage(status)
        case EngineState.FAILED if status.error:
            st.markdown(f":red[:material/error:] {in_a_line(status.error)}")
            _show_start(status, _("Start again"))
        case EngineState.STOPPED if not show_unfit(status.lane):
            _show_start(status, _("Start"))
        case EngineState.HEALTHY if status.stage:
            st.markdown(f":orange[:material/warning: {escape(_(status.stage))}]")


def _show_start(status: EngineStatus, label: str) -> None:
    start_button(status, label, icon=":material/play_arrow:", key="overview_start")


def _engine_badge(status: EngineStatus) -> str:
    if status.state is not EngineState.HEALTHY:
        return state_badge(status.state)
    if status.finishing_s is not None:
        return finishing_badge()
    if status.in_use:
        return f":violet-badge[:material/chat_bubble: {_('answering')}]"
    return f":green-badge[:material/check: {_('idle')}]"


def _show_server(lane: LaneSpec) -> None:
    reach = reach_of(lane)
    st.markdown(f"{lane_label(lane.name)}  \n{reach_badge(reach)}")
    st.caption(describe_lane(lane))
    if reach and reach.error:
        st.markdown(f":red[:material/error:] {prose(_(reach.error.message))}")
    elif reach:
        st.caption(_("Lists its models in {time}.", time=units.milliseconds(reach.round_trip_s)))
