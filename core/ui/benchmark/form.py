"""The benchmark's form: presets, lanes, prompts, load and limits."""

import streamlit as st

from core import units
from core.bench.planning.plan import MAX_CONCURRENCY, MAX_REQUESTS, MAX_SECONDS, Arrivals, Isolation, LoadKind
from core.bench.planning.presets import LIMIT_PRESETS, Preset
from core.domain.specs import LaneSpec
from core.ui.benchmark import form_images as bench_images
from core.ui.benchmark import form_prompt_file as bench_prompts
from core.ui.benchmark.form_fields import NO_LIMITS, OWN_LIMITS, Extent, Prompts
from core.ui.benchmark.form_state import (
    BASELINE,
    LANES,
    apply_preset,
    changed,
    field,
    prepare,
    preset_key,
    take_preset,
    value_of,
)
from core.ui.shared import resources
from core.ui.shared.components import lane_label

_PROMPT_NAMES = {
    Prompts.SYNTHETIC: "Made up",
    Prompts.EXAMPLES: "Examples",
    Prompts.FILE: "A file",
}
_LOAD_NAMES = {LoadKind.CLOSED: "Closed loop", LoadKind.OPEN: "Open loop", LoadKind.SWEEP: "Sweep"}
_SHARING_NAMES = {
    Isolation.ISOLATED: "Others idle",
    Isolation.STOPPED: "Others stopped",
    Isolation.TOGETHER: "Alone, then together",
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
    prepare(lanes)
    st.segmented_control(
        "Preset",
        list(Preset),
        format_func=lambda preset: preset.value.capitalize(),
        key=preset_key(),
        on_change=take_preset,
        args=(preset_key(),),
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


def _show_lanes(lanes: tuple[LaneSpec, ...]) -> None:
    with st.container(horizontal=True, vertical_alignment="bottom"):
        st.pills(
            "Lanes",
            [lane.name for lane in lanes],
            selection_mode="multi",
            format_func=lane_label,
            key=LANES,
            on_change=apply_preset,
            persist_state="session",
        )
        names = st.session_state[LANES]
        if len(names) > 1:
            st.selectbox(
                "Baseline",
                names,
                key=BASELINE,
                width=160,
                help="The speed of the other lanes is given as a multiple of this one's.",
                persist_state="session",
            )
            st.segmented_control(
                "While one is measured",
                list(Isolation),
                format_func=_SHARING_NAMES.__getitem__,
                required=True,
                help=_SHARING_HELP,
                **field("isolation"),
            )


def _show_workload() -> None:
    st.segmented_control(
        "Prompts",
        list(Prompts),
        format_func=_PROMPT_NAMES.__getitem__,
        required=True,
        help="Made-up prompts have a fixed number of the lane's own tokens, and no two begin alike, so that "
        "no prefix cache helps.",
        **field("prompts"),
    )
    if value_of("prompts") is Prompts.FILE:
        bench_prompts.show()
    with st.container(horizontal=True, vertical_alignment="bottom"):
        if value_of("prompts") is Prompts.SYNTHETIC:
            st.number_input(
                "Prompt, tokens",
                min_value=1,
                max_value=1_000_000,
                step=64,
                width=140,
                **field("prompt_tokens"),
            )
        st.number_input(
            "Answer, tokens", min_value=1, max_value=131_072, step=64, width=140, **field("output_tokens")
        )
        st.toggle(
            "Exact length",
            help="Past any end of the answer, so that all lanes do the same work. Otherwise answers end by "
            "themselves, at this length at the latest.",
            **field("fixed_output"),
        )
    bench_images.show(changed)


def _show_load() -> None:
    st.segmented_control(
        "Load",
        list(LoadKind),
        format_func=_LOAD_NAMES.__getitem__,
        required=True,
        help=_LOAD_HELP,
        **field("load"),
    )
    match value_of("load"):
        case LoadKind.CLOSED:
            st.text_input("Concurrency", placeholder="1, 4, 16", **field("concurrencies"))
        case LoadKind.OPEN:
            with st.container(horizontal=True, vertical_alignment="bottom"):
                st.text_input("Requests a second", placeholder="0.5, 1, 2", width=160, **field("rates"))
                st.segmented_control(
                    "Gaps",
                    list(Arrivals),
                    format_func=_ARRIVAL_NAMES.__getitem__,
                    required=True,
                    **field("arrivals"),
                )
        case _:
            st.number_input(
                "Highest concurrency", min_value=2, max_value=MAX_CONCURRENCY, **field("max_concurrency")
            )


def _show_extent() -> None:
    st.segmented_control(
        "Each point takes",
        list(Extent),
        format_func=_EXTENT_NAMES.__getitem__,
        required=True,
        help="A point is one lane at one load. Requests that are under way at the end are awaited.",
        **field("extent"),
    )
    if value_of("extent") is Extent.REQUESTS:
        st.number_input("Requests a point", min_value=1, max_value=MAX_REQUESTS, **field("requests"))
    else:
        st.number_input(
            "Seconds a point",
            min_value=1.0,
            max_value=float(MAX_SECONDS),
            step=5.0,
            format="%g",
            **field("seconds"),
        )


def _show_more() -> None:
    with st.grid(3, min_column_width=220):
        st.number_input(
            "Warm-up requests",
            min_value=0,
            max_value=10_000,
            help="Sent before each point and left out of it.",
            **field("warmup"),
        )
        st.number_input(
            "Repeats",
            min_value=1,
            max_value=100,
            help="All of it so often, every second time with the lanes in reverse order.",
            **field("repeats"),
        )
        st.number_input(
            "Seed",
            min_value=0,
            max_value=2**31,
            help="Of prompts, random gaps and resampling.",
            **field("seed"),
        )
        st.selectbox(
            "Limits for goodput",
            [NO_LIMITS, *LIMIT_PRESETS, OWN_LIMITS],
            format_func=_limits_label,
            help="A request counts for goodput if it keeps all limits.",
            **field("limits"),
        )
        if value_of("limits") == OWN_LIMITS:
            st.text_input("Own limits, seconds", placeholder="ttft=0.5,tpot=0.05", **field("own_limits"))
        st.text_input("Title", max_chars=120, placeholder="Load and lanes", **field("title"))


def _limits_label(name: str) -> str:
    if name not in LIMIT_PRESETS:
        return {NO_LIMITS: "None", OWN_LIMITS: "Own limits"}[name]
    limits = LIMIT_PRESETS[name]
    return f"{name}: TTFT {units.milliseconds(limits.ttft_s)}, TPOT {units.milliseconds(limits.tpot_s)}"
