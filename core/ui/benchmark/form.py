"""Draw the benchmark's form: presets, lanes, prompts, load and limits, then the plan and its start button."""

from collections.abc import Callable, Mapping
from typing import TypeVar

import streamlit as st

from core import units
from core.bench.passes import SEND_FROM_NAMES, Preset, advice, described, estimated_s
from core.bench.plan import (
    LIMIT_PRESETS,
    MAX_CONCURRENCY,
    MAX_REQUESTS,
    MAX_SECONDS,
    MAX_WORKERS,
    Arrivals,
    BenchPlan,
    Isolation,
    LoadKind,
    SendFrom,
)
from core.bench.run.job import running_benches, start_bench
from core.domain.specs import LaneSpec
from core.errors import LMDynoError
from core.i18n import N_, Text, _
from core.ui.benchmark import form_state
from core.ui.benchmark.form_state import (
    BASELINE,
    LANES,
    NO_LIMITS,
    OWN_LIMITS,
    Extent,
    Prompts,
    apply_preset,
    changed,
    field,
    known_speeds,
    prepare,
    preset_key,
    take_preset,
    value_of,
)
from core.ui.shared import resources
from core.ui.shared.components import escape, lane_label, show_error

T = TypeVar("T")

_PROMPT_NAMES = {
    Prompts.SYNTHETIC: N_("Synthetic"),
    Prompts.EXAMPLES: N_("Examples"),
    Prompts.FILE: N_("File"),
}
_LOAD_NAMES = {
    LoadKind.CLOSED: N_("Closed loop"),
    LoadKind.OPEN: N_("Open loop"),
    LoadKind.SWEEP: N_("Sweep"),
}
_ISOLATION_NAMES = {
    Isolation.ISOLATED: N_("Idle"),
    Isolation.STOPPED: N_("Stopped"),
    Isolation.TOGETHER: N_("Alone, then together"),
}
_ARRIVAL_NAMES = {Arrivals.CONSTANT: N_("Constant"), Arrivals.POISSON: N_("Poisson")}
_EXTENT_NAMES = {Extent.REQUESTS: N_("Requests"), Extent.SECONDS: N_("Seconds")}
_PRESET_NAMES = {
    Preset.QUICK_LOOK: N_("Quick look"),
    Preset.CHAT: N_("Chat"),
    Preset.LONG_CONTEXT: N_("Long context"),
    Preset.THROUGHPUT: N_("Throughput"),
}
_PRESET_HELP = N_(
    "**Quick look**: about a minute. **Chat**: 512 tokens in, 256 out, up to 16 requests at once, "
    "with latency "
    "limits for chat. **Long context**: 3,072 tokens in. **Throughput**: doubles concurrency until "
    "throughput "
    "stops rising."
)
_LOAD_HELP = N_(
    "**Closed loop**: keeps a fixed number of requests in flight. **Open loop**: sends requests on "
    "a schedule, "
    "whether or not earlier ones are answered. **Sweep**: doubles concurrency until throughput stops rising."
)
_ISOLATION_HELP = N_(
    "Lanes on one machine slow each other down. **Idle** and **Stopped** give each lane's own "
    "figures; stopped "
    "engines also free their memory. **Alone, then together** also shows how much lanes slow each other down."
)


def show_form(*, folded: bool) -> None:
    """Draw the form with its Start button; folded while a run is under way."""
    if folded:
        with st.expander(_("Queue another run"), icon=":material/playlist_add:"):
            _show_fields()
            show_start()
    else:
        with st.container(border=True):
            _show_fields()
            show_start()


def _show_fields() -> None:
    lanes = resources.lanes().lanes
    prepare(lanes)
    st.segmented_control(
        _("Preset"),
        list(Preset),
        format_func=_named(_PRESET_NAMES),
        key=preset_key(),
        on_change=take_preset,
        args=(preset_key(),),
        help=_(_PRESET_HELP),
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
    with st.expander(_("More settings"), icon=":material/tune:"):
        _show_more()


def _show_lanes(lanes: tuple[LaneSpec, ...]) -> None:
    with st.container(horizontal=True, vertical_alignment="bottom"):
        st.pills(
            _("Lanes"),
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
                _("Baseline"),
                names,
                key=BASELINE,
                width=160,
                help=_("The other lanes' speed is shown relative to this lane's."),
                persist_state="session",
            )
            st.segmented_control(
                _("Other lanes during a measurement"),
                list(Isolation),
                format_func=_named(_ISOLATION_NAMES),
                required=True,
                help=_(_ISOLATION_HELP),
                **field("isolation"),
            )


def _show_workload() -> None:
    st.segmented_control(
        _("Prompts"),
        list(Prompts),
        format_func=_named(_PROMPT_NAMES),
        required=True,
        help=_(
            "Synthetic prompts have a fixed number of the lane's tokens. Each starts differently, so "
            "prefix caching doesn't help."
        ),
        **field("prompts"),
    )
    if value_of("prompts") is Prompts.FILE:
        form_state.show_prompt_file()
    with st.container(horizontal=True, vertical_alignment="bottom"):
        if value_of("prompts") is Prompts.SYNTHETIC:
            st.number_input(
                _("Prompt tokens"),
                min_value=1,
                max_value=1_000_000,
                step=64,
                width=140,
                **field("prompt_tokens"),
            )
        st.number_input(
            _("Output tokens"), min_value=1, max_value=131_072, step=64, width=140, **field("output_tokens")
        )
        st.toggle(
            _("Exact length"),
            help=_(
                "Generate exactly this many tokens, ignoring end-of-sequence, so all lanes do equal "
                "work. Off: "
                "answers may stop earlier."
            ),
            **field("fixed_output"),
        )
    form_state.show_images_field(changed)


def _show_load() -> None:
    st.segmented_control(
        _("Load"),
        list(LoadKind),
        format_func=_named(_LOAD_NAMES),
        required=True,
        help=_(_LOAD_HELP),
        **field("load"),
    )
    match value_of("load"):
        case LoadKind.CLOSED:
            st.text_input(_("Concurrency"), placeholder="1, 4, 16", **field("concurrencies"))
        case LoadKind.OPEN:
            with st.container(horizontal=True, vertical_alignment="bottom"):
                st.text_input(_("Requests per second"), placeholder="0.5, 1, 2", width=160, **field("rates"))
                st.segmented_control(
                    _("Arrivals"),
                    list(Arrivals),
                    format_func=_named(_ARRIVAL_NAMES),
                    required=True,
                    **field("arrivals"),
                )
        case _:
            st.number_input(
                _("Highest concurrency"), min_value=2, max_value=MAX_CONCURRENCY, **field("max_concurrency")
            )


def _show_extent() -> None:
    st.segmented_control(
        _("Stop each point after"),
        list(Extent),
        format_func=_named(_EXTENT_NAMES),
        required=True,
        help=_("A point is one lane at one load. Requests in flight at the end are allowed to finish."),
        **field("extent"),
    )
    if value_of("extent") is Extent.REQUESTS:
        st.number_input(_("Requests per point"), min_value=1, max_value=MAX_REQUESTS, **field("requests"))
    else:
        st.number_input(
            _("Seconds per point"),
            min_value=1.0,
            max_value=float(MAX_SECONDS),
            step=5.0,
            format="%g",
            **field("seconds"),
        )


def _show_more() -> None:
    with st.grid(3, min_column_width=220):
        st.number_input(
            _("Warm-up requests"),
            min_value=0,
            max_value=10_000,
            help=_("Sent before each point and excluded from its results."),
            **field("warmup"),
        )
        st.number_input(
            _("Repeats"),
            min_value=1,
            max_value=100,
            help=_("Runs the whole plan this many times, reversing the lane order every other time."),
            **field("repeats"),
        )
        st.number_input(
            _("Seed"),
            min_value=0,
            max_value=2**31,
            help=_("Seeds prompts, random arrivals, and bootstrap resampling."),
            **field("seed"),
        )
        st.selectbox(
            _("Latency limits for goodput"),
            [NO_LIMITS, *LIMIT_PRESETS, OWN_LIMITS],
            format_func=_limits_label,
            help=_("A request counts towards goodput if it meets every limit."),
            **field("limits"),
        )
        if value_of("limits") == OWN_LIMITS:
            st.text_input(
                _("Custom limits in seconds"), placeholder="ttft=0.5,tpot=0.05", **field("own_limits")
            )
        st.number_input(
            _("Sending processes"),
            min_value=1,
            max_value=MAX_WORKERS,
            value=None,
            placeholder=_("Automatic"),
            help=_(
                "One process takes in about 90,000 chunks per second on one core. Empty: as many as the load "
                "and the cores suggest. Requests with images are sent by one."
            ),
            **field("workers"),
        )
        if resources.lanes().cluster is not None:
            st.selectbox(
                _("Send from"),
                list(SendFrom),
                format_func=_named(SEND_FROM_NAMES),
                help=_(
                    "**The engine's node** takes the network out of the figures. **All nodes** send more "
                    "load than one machine can."
                ),
                **field("send_from"),
            )
        st.text_input(_("Title"), max_chars=120, placeholder=_("Load and lanes"), **field("title"))


def _named(names: Mapping[T, Text]) -> Callable[[T], str]:
    """Draw options by their names in the reader's language."""
    return lambda option: _(names[option])


def _limits_label(name: str) -> str:
    if name not in LIMIT_PRESETS:
        return _("None") if name == NO_LIMITS else _("Custom")
    limits = LIMIT_PRESETS[name]
    return f"{name}: TTFT {units.milliseconds(limits.ttft_s)}, TPOT {units.milliseconds(limits.tpot_s)}"


def show_start() -> None:
    """The plan in words, its duration, its warnings and the start button; or the error in the form."""
    plan = None
    try:
        plan = form_state.read()
    except LMDynoError as error:
        show_error(error)
    else:
        _show_outlook(plan)
    is_busy = bool(running_benches(resources.settings()))
    is_wanted = st.button(
        _("Queue after the current run") if is_busy else _("Start"),
        type="primary",
        icon=":material/play_arrow:",
        disabled=plan is None,
        key="bench_start",
    )
    if is_wanted and plan:
        _start(plan)


def _start(plan: BenchPlan) -> None:
    dashboard = resources.resources()
    try:
        with st.spinner(_("Starting")):
            start_bench(dashboard.settings, plan, gpu=dashboard.gpu)
    except LMDynoError as error:
        show_error(error)
        return
    st.rerun()


def _show_outlook(plan: BenchPlan) -> None:
    speeds = known_speeds(plan.lanes)
    facts = (_("{label}: {text}", label=fact.label, text=fact.text) for fact in described(plan))
    st.caption(escape(" · ".join(facts)))
    duration = units.duration(estimated_s(plan, speeds))
    if len(speeds) == len(plan.lanes):
        st.markdown(
            _(
                "Estimated duration: **{duration}** (from earlier runs), plus engine start-up.",
                duration=duration,
            )
        )
    else:
        st.markdown(
            _(
                "Estimated duration: **{duration}** (rough guess; these lanes haven't been measured "
                "yet), plus "
                "engine start-up.",
                duration=duration,
            )
        )
    notes = [
        _(
            "{lane} can't run here: {problem} {hint}",
            lane=lane.name,
            problem=_(reason.message),
            hint=_(reason.hint),
        )
        for lane in plan.lanes
        if (reason := resources.unfit(lane))
    ]
    notes += advice(plan, gpu=resources.resources().gpu, speeds=speeds)
    if notes:
        st.markdown("  \n".join(f":orange[:material/warning:] {escape(note)}" for note in notes))
