"""What the buttons about engines and lanes do; all are widget callbacks or called after a form."""

from collections.abc import Callable
from dataclasses import replace

import streamlit as st

from core.config.changes import forget_lane, save_lane
from core.domain.specs import EngineSettings, LaneSpec
from core.engines.registry import EngineState
from core.errors import LMDynoError
from core.ui.shared import resources
from core.ui.shared.components import show_toast

_REMOVED = "removed_lane"


def start(name: str) -> None:
    _try(lambda: resources.manager().ensure(name))


def stop(name: str) -> None:
    """Stop the lane's engine; one in use says so and goes on."""
    _try(lambda: resources.manager().stop(name))


def restart(name: str) -> None:
    """Start the lane's engine again, whatever state it is in; one in use says so and goes on."""
    _try(lambda: resources.manager().restart(name))


def add(lane: LaneSpec) -> None:
    """Add the lane for every session and for the command line."""
    _try(lambda: keep_lane(lane))


def read_lanes_again() -> None:
    """After something else changed what they are made of; those that can't be read stay as they were."""
    _try(resources.resources().reload_lanes)


def keep_lane(lane: LaneSpec) -> None:
    """Add a lane, or change one, for every session and for the command line. Raises ConfigError."""
    made = resources.resources()
    save_lane(made.settings, lane)
    made.reload_lanes()
    resources.reachability().forget(lane.name)


def change_settings(lane: LaneSpec, settings: EngineSettings) -> None:
    """Keep new settings; a running engine is started anew with them, unless in use. Raises ConfigError."""
    status = resources.manager().status(lane.name)
    keep_lane(replace(lane, settings=settings))
    if status.state in (EngineState.STARTING, EngineState.HEALTHY):
        restart(lane.name)


def forget(lane: LaneSpec) -> None:
    """Undo what the dashboard kept of a lane; `removed` is how it was."""
    _try(lambda: _forget(lane))


def _forget(lane: LaneSpec) -> None:
    made = resources.resources()
    if forget_lane(made.settings, lane.name):
        st.session_state[_REMOVED] = lane
    made.reload_lanes()
    resources.reachability().forget(lane.name)


def removed() -> LaneSpec | None:
    """The lane that this session removed last and can bring back."""
    lane: LaneSpec | None = st.session_state.get(_REMOVED)
    return lane


def bring_back(lane: LaneSpec) -> None:
    """Undo `forget`."""
    _try(lambda: keep_lane(lane))
    st.session_state.pop(_REMOVED, None)


def _try(action: Callable[[], None]) -> None:
    try:
        action()
    except LMDynoError as error:
        show_toast(error)
