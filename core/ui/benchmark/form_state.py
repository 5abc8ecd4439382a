"""The values of the benchmark form's fields: the first ones, a preset's, and the plan that they make."""

from collections.abc import Mapping, Sequence
from dataclasses import fields as fields_of_class
from typing import Any

import streamlit as st

from core.bench.planning.passes import Speed, speed_of
from core.bench.planning.plan import BenchPlan
from core.bench.planning.presets import Preset, preset_plan
from core.bench.run.job import last_plan
from core.domain.specs import LaneSpec
from core.errors import StoreError
from core.ui.benchmark import form_uploads
from core.ui.benchmark.form_fields import PlanFields, fields_of, plan_of, preset_of
from core.ui.shared import resources

LANES = "bench_lanes"
BASELINE = "bench_baseline"
_PRESET = "bench_preset"
_FIELDS = "bench_fields"

_TURN = "key_turn_"


def read() -> BenchPlan:
    """The plan that the fields make; raises InputError."""
    values = {field.name: value_of(field.name) for field in fields_of_class(PlanFields)}
    return form_uploads.with_images(plan_of(PlanFields(**values), _picked(), form_uploads.prompt_file()))


def prepare(lanes: tuple[LaneSpec, ...]) -> None:
    """Start values of a new session, which a reload begins too: the plan that was started last.

    Before the first the quick look at the lanes that start with the dashboard.
    """
    names = [lane.name for lane in lanes]
    state = st.session_state
    if LANES not in state and not _repeat_last(names):
        dashboard = resources.resources()
        started = resources.autostarted(dashboard.settings, lanes, gpu=dashboard.gpu) or lanes[:1]
        state[LANES] = [lane.name for lane in started]
        state[preset_key()] = Preset.QUICK_LOOK
        _fill(fields_of(_plan_of(Preset.QUICK_LOOK, _picked())))
    # The lanes file may have changed since the session began.
    state[LANES] = [name for name in names if name in state[LANES]]
    if state[LANES] and state.get(BASELINE) not in state[LANES]:
        state[BASELINE] = state[LANES][0]


def start_with(names: Sequence[str]) -> None:
    """Fill the form for a quick look at these lanes, the first one as the baseline, before it is drawn."""
    state = st.session_state
    state[LANES], state[BASELINE] = list(names), names[0]
    state[preset_key()] = Preset.QUICK_LOOK
    apply_preset()


def take_preset(key: str) -> None:
    """Apply the preset chosen on the widget of that key, which may have been replaced meanwhile."""
    st.session_state[preset_key()] = st.session_state[key]
    apply_preset()


def apply_preset() -> None:
    """The preset's values into all fields; it may go by the number of lanes."""
    preset, lanes = st.session_state[preset_key()], _picked()
    if preset is not None and lanes:
        renew(_FIELDS)
        _fill(fields_of(_plan_of(preset, lanes)))


def changed() -> None:
    """A field is no longer the preset's."""
    if st.session_state[preset_key()] is not None:
        renew(_PRESET)
        st.session_state[preset_key()] = None
    if value_of("title") in tuple(Preset):
        st.session_state[_key("title")] = ""


def preset_key() -> str:
    """The key of the presets' widget."""
    return key_of(_PRESET, group=_PRESET)


def field(name: str, **more: Any) -> dict[str, Any]:  # noqa: ANN401 - arguments of widgets
    """The arguments that all fields' widgets have in common."""
    return {"key": _key(name), "on_change": changed, "persist_state": "session", **more}


def value_of(name: str) -> Any:  # noqa: ANN401 - as the field's widget has it
    return st.session_state[_key(name)]


def known_speeds(lanes: Sequence[LaneSpec]) -> Mapping[str, Speed]:
    """Of the lanes that were measured before, by name; empty while the store can't be read."""
    runs = resources.bench_runs()
    try:
        speeds = {lane.name: speed_of(runs.first_requests(lane)) for lane in lanes}
    except StoreError:
        return {}  # whoever draws the history says what is wrong with the store
    return {name: speed for name, speed in speeds.items() if speed is not None}


def _repeat_last(names: Sequence[str]) -> bool:
    """The values of the plan that was started last into all fields; False if its lanes are not there."""
    plan, state = last_plan(resources.settings()), st.session_state
    if plan is None or not all(lane.name in names for lane in plan.lanes):
        return False
    state[LANES] = [lane.name for lane in plan.lanes]
    state[BASELINE], state[preset_key()] = plan.lanes[0].name, preset_of(plan)
    _fill(fields_of(plan))
    form_uploads.start_with_prompt_file(plan.workload)
    form_uploads.start_with_images(plan.workload.images)
    return True


def _plan_of(preset: Preset, lanes: Sequence[LaneSpec]) -> BenchPlan:
    return preset_plan(preset, lanes, known_speeds(lanes) if preset is Preset.QUICK_LOOK else None)


def _fill(fields: PlanFields) -> None:
    for field in fields_of_class(PlanFields):
        st.session_state[_key(field.name)] = getattr(fields, field.name)


def _key(name: str) -> str:
    """The key of a field's widget."""
    return key_of(f"bench_{name}", group=_FIELDS)


def _picked() -> list[LaneSpec]:
    """The chosen lanes, the baseline first."""
    baseline = st.session_state.get(BASELINE)
    chosen = [lane for lane in resources.lanes().lanes if lane.name in st.session_state[LANES]]
    return sorted(chosen, key=lambda lane: lane.name != baseline)


def key_of(name: str, *, group: str) -> str:
    """The key that a widget of the group has now."""
    turn = st.session_state.get(_TURN + group, 0)
    return f"{name}_{turn}" if turn else name


def renew(group: str) -> None:
    """Give the group's widgets new keys; their values have to be set under these."""
    st.session_state[_TURN + group] = st.session_state.get(_TURN + group, 0) + 1
