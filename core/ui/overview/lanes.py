"""The lanes as cards: what each one is and what it does right now."""

import streamlit as st

from core import units
from core.access.guard import Action, may
from core.domain.specs import LaneSpec
from core.engines.manager import EngineStatus
from core.engines.registry import EngineState
from core.i18n import _
from core.ui.engines import actions as engine_actions
from core.ui.engines.status import (
    REFRESH_S,
    finishing_badge,
    reach_badge,
    reach_of,
    show_stage,
    show_unfit,
    state_badge,
)
from core.ui.shared import resources
from core.ui.shared.components import describe_lane, escape, in_a_line, lane_label, prose

_CARD_PX = 260
_MOST_IN_A_ROW = 4


def show() -> None:
    st.subheader(_("Lanes"), anchor=False)
    _show_cards()


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
    st.caption(describe_lane(status.lane))
    match status.state:
        case EngineState.STARTING:
            show_stage(status)
        case EngineState.FAILED if status.error:
            st.markdown(f":red[:material/error:] {in_a_line(status.error)}")
            _start_button(status, _("Start again"))
        case EngineState.STOPPED if not show_unfit(status.lane):
            _start_button(status, _("Start"))
        case EngineState.HEALTHY if status.stage:
            st.markdown(f":orange[:material/warning: {escape(_(status.stage))}]")


def _engine_badge(status: EngineStatus) -> str:
    if status.state is not EngineState.HEALTHY:
        return state_badge(status.state)
    if status.finishing_s is not None:
        return finishing_badge()
    if status.in_use:
        return f":violet-badge[:material/chat_bubble: {_('answering')}]"
    return f":green-badge[:material/check: {_('idle')}]"


def _start_button(status: EngineStatus, label: str) -> None:
    if not may(Action.RESTART_ENGINE):
        return
    st.button(
        label,
        icon=":material/play_arrow:",
        key=f"overview_start_{status.name}",
        on_click=engine_actions.restart,
        args=(status.name,),
    )


def _show_server(lane: LaneSpec) -> None:
    reach = reach_of(lane)
    st.markdown(f"{lane_label(lane.name)}  \n{reach_badge(reach)}")
    st.caption(describe_lane(lane))
    if reach and reach.error:
        st.markdown(f":red[:material/error:] {prose(_(reach.error.message))}")
    elif reach:
        st.caption(_("Lists its models in {time}.", time=units.milliseconds(reach.round_trip_s)))
