"""The benchmark's form: presets, lanes, prompts, load and limits."""

from collections.abc import Sequence
from dataclasses import fields as fields_of_class
from typing import Any

import streamlit as st

from core import units
from core.bench.book import last_plan
from core.bench.plan import (
    MAX_CONCURRENCY,
    MAX_REQUESTS,
    MAX_SECONDS,
    Arrivals,
    BenchPlan,
    LoadKind,
    Sharing,
)
from core.bench.presets import LIMIT_PRESETS, Preset, preset_plan
from core.domain.specs import LaneSpec
from core.ui import bench_pictures, bench_prompts, resources
from core.ui.bench_planning import (
    NO_LIMITS,
    OWN_LIMITS,
    Extent,
    PlanFields,
    Prompts,
    fields_of,
    plan_of,
    preset_of,
)
from core.ui.components import lane_label
from core.ui.widget_keys import key_of, renew

_PRESET = "bench_preset"
_FIELDS = "bench_fields"
_LANES = "bench_lanes"
_BASELINE = "bench_baseline"
_PROMPT_NAMES = {
    Prompts.SYNTHETIC: "Made up",
    Prompts.EXAMPLES: "Examples",
    Prompts.FILE: "A file",
}
_LOAD_NAMES = {LoadKind.CLOSED: "Closed loop", LoadKind.OPEN: "Open loop", LoadKind.SWEEP: "Sweep"}
_SHARING_NAMES = {
    Sharing.ISOLATED: "Others idle",
    Sharing.STOPPED: "Others stopped",
    Sharing.TOGETHER: "Alone, then together",
}
_ARRIVAL_NAMES = {Arrivals.CONSTANT: "Even", Arrivals.POISSON: "Random (Poisson)"}
_EXTENT_NAMES = {Extent.REQUESTS: "Requests", Extent.SECONDS: "Seconds"}
_PRESET_HELP = (
    "**Quick look**: a minute. **Chat**: 512 tokens in, 256 out, up to 16 at once, with a chat's limits. "
    "**Long context**: 3,072 tokens in. **Throughput**: doubles the load until it brings no more."
)
_LOAD_HELP = (
    "**Closed loop**: so many requests are always under way; each answer makes room for the next. "
    "**Open loop**: requests are sent on a schedule, whether or not earlier ones are answered. "
    "**Sweep**: concurrency 1, 2, 4 … until more of it brings no more tokens a second."
)
_SHARING_HELP = (
    "Lanes on one machine slow each other down. **Others idle** and **others stopped** give each lane's own "
    "figures, stopped with all memory to itself. **Alone, then together** also tells what they cost each "
    "other."
)


def show_fields() -> None:
    lanes = resources.lanes().lanes
    _prepare(lanes)
    st.segmented_control(
        "Preset",
        list(Preset),
        format_func=lambda preset: preset.value.capitalize(),
        key=_preset_key(),
        on_change=_take_preset,
        args=(_preset_key(),),
        help=_PRESET_HELP,
        persist_state="session",
    )
    _show_lanes(lanes)
    with st.grid(3, min_column_width=300):
        with st.container():
            _show_workload()
        with st.container():
            _show_load()
        with st.container():
            _show_extent()
    with st.expander("More settings", icon=":material/tune:"):
        _show_more()


def read() -> BenchPlan:
    """The plan that the fields make; raises InputError."""
    values = {field.name: _value(field.name) for field in fields_of_class(PlanFields)}
    return bench_pictures.added(plan_of(PlanFields(**values), _picked(), bench_prompts.kept()))


def _prepare(lanes: tuple[LaneSpec, ...]) -> None:
    """Start values of a new session, which a reload begins too: the plan that was started last.

    Before the first the quick look at the lanes that start with the dashboard.
    """
    names = [lane.name for lane in lanes]
    state = st.session_state
    if _LANES not in state and not _repeat_last(names):
        started = resources.autostarted(lanes, gpu=resources.resources().gpu) or lanes[:1]
        state[_LANES] = [lane.name for lane in started]
        state[_preset_key()] = Preset.QUICK_LOOK
        _fill(fields_of(preset_plan(Preset.QUICK_LOOK, _picked())))
    # The lanes file may have changed since the session began.
    state[_LANES] = [name for name in names if name in state[_LANES]]
    if state[_LANES] and state.get(_BASELINE) not in state[_LANES]:
        state[_BASELINE] = state[_LANES][0]


def _repeat_last(names: Sequence[str]) -> bool:
    """The values of the plan that was started last into all fields; False if its lanes are not there."""
    plan, state = last_plan(resources.resources().settings), st.session_state
    if plan is None or not all(lane.name in names for lane in plan.lanes):
        return False
    state[_LANES] = [lane.name for lane in plan.lanes]
    state[_BASELINE], state[_preset_key()] = plan.lanes[0].name, preset_of(plan)
    _fill(fields_of(plan))
    bench_prompts.start_with(plan.workload)
    bench_pictures.start_with(plan.workload.pictures)
    return True


def _take_preset(key: str) -> None:
    """What was pressed on the widget of that key, which may have made way for a new one meanwhile."""
    st.session_state[_preset_key()] = st.session_state[key]
    _apply_preset()


def _apply_preset() -> None:
    """The preset's values into all fields; it may go by the number of lanes."""
    preset, lanes = st.session_state[_preset_key()], _picked()
    if preset is not None and lanes:
        renew(_FIELDS)
        _fill(fields_of(preset_plan(preset, lanes)))


def _changed() -> None:
    """A field is no longer the preset's."""
    if st.session_state[_preset_key()] is not None:
        renew(_PRESET)
        st.session_state[_preset_key()] = None
    if _value("title") in tuple(Preset):
        st.session_state[_key("title")] = ""


def _fill(fields: PlanFields) -> None:
    for field in fields_of_class(PlanFields):
        st.session_state[_key(field.name)] = getattr(fields, field.name)


def _preset_key() -> str:
    return key_of(_PRESET, group=_PRESET)


def _key(name: str) -> str:
    """The key of a field's widget."""
    return key_of(f"bench_{name}", group=_FIELDS)


def _field(name: str, **more: Any) -> dict[str, Any]:  # noqa: ANN401 - arguments of widgets
    """What the widget of a field shares with all others."""
    return {"key": _key(name), "on_change": _changed, "persist_state": "session", **more}


def _value(name: str) -> Any:  # noqa: ANN401 - as the field's widget has it
    return st.session_state[_key(name)]


def _picked() -> list[LaneSpec]:
    """The chosen lanes, the baseline first."""
    baseline = st.session_state.get(_BASELINE)
    chosen = [lane for lane in resources.lanes().lanes if lane.name in st.session_state[_LANES]]
    return sorted(chosen, key=lambda lane: lane.name != baseline)


def _show_lanes(lanes: tuple[LaneSpec, ...]) -> None:
    with st.container(horizontal=True, vertical_alignment="bottom"):
        st.pills(
            "Lanes",
            [lane.name for lane in lanes],
            selection_mode="multi",
            format_func=lane_label,
            key=_LANES,
            on_change=_apply_preset,
            persist_state="session",
        )
        names = st.session_state[_LANES]
        if len(names) > 1:
            st.selectbox(
                "Baseline",
                names,
                key=_BASELINE,
                width=160,
                help="The speed of the other lanes is given as a multiple of this one's.",
                persist_state="session",
            )
            st.segmented_control(
                "While one is measured",
                list(Sharing),
                format_func=_SHARING_NAMES.__getitem__,
                required=True,
                help=_SHARING_HELP,
                **_field("sharing"),
            )


def _show_workload() -> None:
    st.segmented_control(
        "Prompts",
        list(Prompts),
        format_func=_PROMPT_NAMES.__getitem__,
        required=True,
        help="Made-up prompts have a fixed number of the lane's own tokens, and no two begin alike, so that "
        "no prefix cache helps.",
        **_field("prompts"),
    )
    if _value("prompts") is Prompts.FILE:
        bench_prompts.show()
    with st.container(horizontal=True, vertical_alignment="bottom"):
        if _value("prompts") is Prompts.SYNTHETIC:
            st.number_input(
                "Prompt, tokens",
                min_value=1,
                max_value=1_000_000,
                step=64,
                width=140,
                **_field("prompt_tokens"),
            )
        st.number_input(
            "Answer, tokens", min_value=1, max_value=131_072, step=64, width=140, **_field("output_tokens")
        )
        st.toggle(
            "Exact length",
            help="Past any end of the answer, so that all lanes do the same work. Otherwise answers end by "
            "themselves, at this length at the latest.",
            **_field("fixed_output"),
        )
    bench_pictures.show(_changed)


def _show_load() -> None:
    st.segmented_control(
        "Load",
        list(LoadKind),
        format_func=_LOAD_NAMES.__getitem__,
        required=True,
        help=_LOAD_HELP,
        **_field("load"),
    )
    match _value("load"):
        case LoadKind.CLOSED:
            st.text_input("Concurrency", placeholder="1, 4, 16", **_field("concurrencies"))
        case LoadKind.OPEN:
            with st.container(horizontal=True, vertical_alignment="bottom"):
                st.text_input("Requests a second", placeholder="0.5, 1, 2", width=160, **_field("rates"))
                st.segmented_control(
                    "Gaps",
                    list(Arrivals),
                    format_func=_ARRIVAL_NAMES.__getitem__,
                    required=True,
                    **_field("arrivals"),
                )
        case _:
            st.number_input(
                "Highest concurrency", min_value=2, max_value=MAX_CONCURRENCY, **_field("max_concurrency")
            )


def _show_extent() -> None:
    st.segmented_control(
        "Each point takes",
        list(Extent),
        format_func=_EXTENT_NAMES.__getitem__,
        required=True,
        help="A point is one lane at one load. Requests that are under way at the end are awaited.",
        **_field("extent"),
    )
    if _value("extent") is Extent.REQUESTS:
        st.number_input("Requests a point", min_value=1, max_value=MAX_REQUESTS, **_field("requests"))
    else:
        st.number_input(
            "Seconds a point",
            min_value=1.0,
            max_value=float(MAX_SECONDS),
            step=5.0,
            format="%g",
            **_field("seconds"),
        )


def _show_more() -> None:
    with st.grid(3, min_column_width=220):
        st.number_input(
            "Warm-up requests",
            min_value=0,
            max_value=10_000,
            help="Sent before each point and left out of it.",
            **_field("warmup"),
        )
        st.number_input(
            "Repeats",
            min_value=1,
            max_value=100,
            help="All of it so often, every second time with the lanes in reverse order.",
            **_field("repeats"),
        )
        st.number_input(
            "Seed",
            min_value=0,
            max_value=2**31,
            help="Of prompts, random gaps and resampling.",
            **_field("seed"),
        )
        st.selectbox(
            "Limits for goodput",
            [NO_LIMITS, *LIMIT_PRESETS, OWN_LIMITS],
            format_func=_limits_label,
            help="A request counts for goodput if it keeps all limits.",
            **_field("limits"),
        )
        if _value("limits") == OWN_LIMITS:
            st.text_input("Own limits, seconds", placeholder="ttft=0.5,tpot=0.05", **_field("own_limits"))
        st.text_input("Title", max_chars=120, placeholder="Load and lanes", **_field("title"))


def _limits_label(name: str) -> str:
    if name not in LIMIT_PRESETS:
        return {NO_LIMITS: "None", OWN_LIMITS: "Own limits"}[name]
    limits = LIMIT_PRESETS[name]
    return f"{name}: TTFT {units.milliseconds(limits.ttft_s)}, TPOT {units.milliseconds(limits.tpot_s)}"
