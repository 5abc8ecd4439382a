"""Measured memory: of GPUs and engines over time, of each engine by parts, and of a sweep's points.

A sweep is a background job that starts an engine with each KV cache setting, and compares the memory that was
predicted with the measured one.
"""

import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta

import streamlit as st

from core import units
from core.access.guard import Action
from core.bench.memory_sweep import (
    DEFAULT_RATIOS,
    JOB_KIND,
    SweepPlan,
    SweepRun,
    grid,
    load,
    start_sweep,
    sweep_id,
)
from core.charts.memory import Bar, SweepBar, live_chart, parts_chart, sweep_chart
from core.chat_api.servers import ServerMetrics, server_metrics
from core.codec import encode_plain
from core.domain.specs import EngineKind, LaneSpec
from core.engines.manager import EngineStatus
from core.engines.registry import EngineState
from core.engines.resolve import find_endpoint
from core.errors import LMDynoError
from core.i18n import Text, _
from core.jobs.registry import Jobs, JobStatus
from core.memory.model_sizes import lane_weight_bytes
from core.memory.prediction import KV_BITS, TOTAL_SOURCES, SplitPart, split_memory
from core.telemetry.sampler import Sampler
from core.telemetry.samples import EngineReading, EventKind, GpuReading, MemorySource, Sample
from core.telemetry.series import gpu_lines, host_lines, to_csv, window_stats
from core.ui.memory.explorer import FORMS
from core.ui.shared import resources
from core.ui.shared.components import color_of, escape, in_a_line, lane_label, show_chart, show_error
from core.ui.shared.jobs import choose_node, gpus_of, is_usable, not_deleted, show_job
from core.ui.shared.visitor import offers, show_export

_CARDS_S = 1.0
_CHART_S = 2.0
"""Streamlit puts a changed plotly chart in the place of the old one, which costs the browser some work."""
_FROZEN = "memory_frozen_at_ns"
_RANGES_S = (60, 300, 900)
_CHART_CONFIG = {
    "displaylogo": False,
    "displayModeBar": True,
    "toImageButtonOptions": {"format": "png", "filename": "lmdyno-memory", "scale": 2},
}
_FROZEN_CONFIG = {
    **_CHART_CONFIG,
    "scrollZoom": True,
    "modeBarButtonsToRemove": ["select2d", "lasso2d", "autoScale2d"],
}
# A zoom would be lost with the next redraw.
_MOVING_CONFIG = {**_CHART_CONFIG, "modeBarButtons": [["toImage"]]}

_SPLIT_REFRESH_S = 5.0
"""LMDeploy renews these figures of its /metrics every ten seconds."""
_TIMEOUT_S = 1.0

_SWEEP_REFRESH_S = 1.0
_SWEEPS = 5


def show_live() -> None:
    """Controls, cards and chart; all but the controls renew themselves unless frozen."""
    latest = _latest()
    gpus = {gpu.index: f"GPU {gpu.index} · {gpu.name}" for gpu in latest.gpus}
    with st.container(horizontal=True, vertical_alignment="bottom"):
        gpu = None
        if gpus:
            gpu = st.pills(
                "GPU",
                list(gpus),
                format_func=gpus.__getitem__,
                default=min(gpus),
                required=True,
                key="memory_gpu",
                persist_state="session",
            )
        range_s = st.segmented_control(
            _("Range"),
            _RANGES_S,
            default=300,
            format_func=lambda seconds: _("{n} min", n=seconds // 60),
            required=True,
            key="memory_range",
            persist_state="session",
        )
        frozen = st.toggle(
            _("Freeze"),
            key="memory_freeze",
            on_change=_freeze,
            help=_("Keeps the chart and the cards as they are, so that you can zoom and pan the chart."),
            persist_state="session",
        )
        st.download_button(
            "CSV",
            data=_csv_later(range_s),
            file_name="lmdyno-memory.csv",
            mime="text/csv",
            icon=":material/download:",
            on_click="ignore",
            help=_("All samples in the range. To save the chart as PNG, use the camera above it."),
        )
    st.fragment(_show_cards, run_every=None if frozen else _CARDS_S)(gpu, range_s)
    st.fragment(_show_chart, run_every=None if frozen else _CHART_S)(gpu, range_s, frozen=frozen)


def _freeze() -> None:
    frozen = st.session_state["memory_freeze"]
    st.session_state[_FROZEN] = time.perf_counter_ns() if frozen else None


def _until_ns() -> int:
    return st.session_state.get(_FROZEN) or time.perf_counter_ns()


def _latest() -> Sample:
    sampler = resources.sampler()
    kept = sampler.samples()
    return kept[-1] if kept else sampler.sample()


def _samples(range_s: int) -> tuple[Sample, ...]:
    return _between(resources.sampler(), range_s, _until_ns())


def _between(sampler: Sampler, range_s: int, until_ns: int) -> tuple[Sample, ...]:
    since_ns = until_ns - range_s * 1_000_000_000
    return tuple(sample for sample in sampler.samples(since_ns) if sample.at_ns <= until_ns)


def _csv_later(range_s: int) -> Callable[[], str]:
    """Makes the table at the click; that happens outside of any session."""
    sampler, frozen_ns = resources.sampler(), st.session_state.get(_FROZEN)
    return lambda: to_csv(_between(sampler, range_s, frozen_ns or time.perf_counter_ns()), _wall_clock())


def _wall_clock() -> Callable[[int], datetime]:
    """Turns timestamps of the samples' clock into this machine's time of day."""
    now, now_ns = datetime.now(UTC).astimezone().replace(tzinfo=None), time.perf_counter_ns()
    return lambda at_ns: now - timedelta(microseconds=(now_ns - at_ns) / 1_000)


def _show_cards(gpu: int | None, range_s: int) -> None:
    samples = _samples(range_s)
    if not samples:
        st.caption(_("There are no measurements in this range."))
        return
    latest = samples[-1]
    if latest.problem:
        st.caption(f":material/info: {in_a_line(latest.problem)}")
    reading = latest.gpu(gpu) if gpu is not None else None
    if reading:
        _show_gpu_cards(reading, samples)
    _show_engine_cards(latest, gpu)


def _show_gpu_cards(gpu: GpuReading, samples: Sequence[Sample]) -> None:
    window = window_stats(samples, samples[0].at_ns, samples[-1].at_ns)
    here = next(stats for stats in window.gpus if stats.index == gpu.index)
    used = _("{part} of {total}", part=units.gib(gpu.used_bytes), total=units.gib(gpu.total_bytes))
    with st.container(horizontal=True, gap="small"):
        _card(_("Memory used"), used, gpu.reason("memory"))
        _card(_("Free"), units.gib(gpu.free_bytes), gpu.reason("memory"))
        _card(_("Utilisation"), _text(gpu.utilisation_ratio, "{:.0%}"), gpu.reason("utilisation_ratio"))
        _card(_("Power"), _text(gpu.power_w, "{:.0f} W"), gpu.reason("power_w"))
        _card(_("Energy in this range"), _text(here.energy_j, "{:.0f} J"), here.energy_gap)
        _card(_("Temperature"), _text(gpu.temperature_c, "{:.0f} °C"), gpu.reason("temperature_c"))
        clock = None if gpu.sm_clock_hz is None else gpu.sm_clock_hz / 1e6
        _card(_("SM clock"), _text(clock, "{:.0f} MHz"), gpu.reason("sm_clock_hz"))
        _card(_("PCIe in / out"), _pcie(gpu), gpu.reason("pcie_rx_bytes_per_s"))
    if gpu.throttle_reasons:
        reasons = ", ".join(_(reason) for reason in gpu.throttle_reasons)
        text = _("Clocks throttled: {reasons}", reasons=escape(reasons))
        st.caption(f":orange[:material/speed:] {text}")
    if reason := gpu.reason("processes"):
        text = _(
            "Memory per engine is the growth of the GPU's memory since before the engine's start. {reason}",
            reason=escape(_(reason)),
        )
        st.caption(f":material/info: {text}")


def _show_engine_cards(sample: Sample, gpu: int | None) -> None:
    if not sample.engines:
        st.caption(_("No engine is running. Engines appear here when they start."))
        return
    with st.grid(min(len(sample.engines), 4), min_column_width=220):
        for engine in sample.engines:
            with st.container(border=True, gap="xsmall", height="stretch"):
                busy = " :violet-badge[busy]" if engine.busy else ""
                st.markdown(f"{lane_label(engine.name)}{busy}")
                st.markdown("  \n".join(_engine_facts(engine, gpu)))


def _engine_facts(engine: EngineReading, gpu: int | None) -> list[str]:
    facts = []
    for share in engine.gpu_memory:
        if share.gpu == gpu:
            size = units.gib(share.used_bytes)
            if share.source is MemorySource.DIFFERENCE:
                fact = _("GPU memory: **{size}** by difference", size=size)
            else:
                fact = _("GPU memory: **{size}**", size=size)
            facts.append(f"{fact} ({escape(_(share.reason))})" if share.reason else fact)
    facts.append(_("Host memory: **{size}**", size=units.gib(engine.resident_bytes)))
    facts.append(_("CPU: **{n}** cores", n=_text(engine.cpu_ratio, "{:.2f}")))
    return facts


def _show_chart(gpu: int | None, range_s: int, *, frozen: bool) -> None:
    samples = _samples(range_s)
    if not samples:
        return
    lines = host_lines(samples) if gpu is None else gpu_lines(samples, gpu)
    events = resources.watch().events(samples[0].at_ns)
    engines = ", ".join(lines.engine_bytes) or units.UNKNOWN
    if gpu is None:
        alt = _("Resident memory and CPU share over time, by engine: {engines}", engines=engines)
    else:
        alt = _(
            "Memory, load, and power of GPU {index} over time, by engine: {engines}",
            index=gpu,
            engines=engines,
        )
    st.plotly_chart(
        live_chart(
            lines,
            [event for event in events if event.at_ns <= samples[-1].at_ns],
            colors={name: color_of(name) for name in lines.engine_bytes},
            wall=_wall_clock(),
            gpu=gpu is not None,
        ),
        key="memory_live_chart",
        config=_FROZEN_CONFIG if frozen else _MOVING_CONFIG,
        alt=alt,
    )


def _card(label: str, value: str, gap: Text | None) -> None:
    st.metric(label, value, help=gap and _(gap), width="content")


def _pcie(gpu: GpuReading) -> str:
    rx, tx = (
        units.UNKNOWN if rate is None else f"{rate / 1e6:.0f}"
        for rate in (gpu.pcie_rx_bytes_per_s, gpu.pcie_tx_bytes_per_s)
    )
    return f"{rx} / {tx} MB/s"


def _text(value: float | None, pattern: str) -> str:
    return units.UNKNOWN if value is None else pattern.format(value)


@st.fragment(run_every=_SPLIT_REFRESH_S)
def show_split() -> None:
    """A bar and a list of parts with their sources for each running engine; refreshes itself."""
    readings = {engine.name: engine for engine in resources.sampler().sample().engines}
    running = [
        (status, readings[status.name])
        for status in resources.manager().statuses()
        if status.name in readings and status.state is EngineState.HEALTHY
    ]
    if not running:
        st.caption(_("No engine is ready. Start one to see its memory breakdown."))
    splits = {status.name: _split(status, reading) for status, reading in running}
    if splits:
        bars = [
            Bar(name=name, parts=[(part.part, part.size_bytes) for part in parts])
            for name, parts in splits.items()
        ]
        show_chart(
            parts_chart(bars), key="memory_split_chart", alt=_("Memory of each engine by part; values below")
        )
    with st.grid(max(1, min(3, len(running))), min_column_width=320):
        for status, reading in running:
            with st.container(border=True, height="stretch"):
                _show_parts(status.name, reading, splits[status.name])
    _show_remote()


def _split(status: EngineStatus, reading: EngineReading) -> tuple[SplitPart, ...]:
    metrics = _metrics(status.lane) if status.lane.kind is not EngineKind.TRANSFORMERS else None
    return split_memory(
        _total_bytes(reading),
        weight_bytes=_weight_bytes(status.lane),
        free_before_bytes=_free_before_bytes(status.name, reading),
        kv=resources.watch().kv_log(status.name),
        kv_used_ratio=metrics.kv_used_ratio if metrics else None,
    )


def _total_bytes(reading: EngineReading) -> int | None:
    """On the first of its GPUs; in host memory for an engine without one."""
    return reading.gpu_memory[0].used_bytes if reading.gpu_memory else reading.resident_bytes


def _free_before_bytes(name: str, reading: EngineReading) -> int | None:
    """Free memory of the engine's GPU in the last sample before its start, if that was seen."""
    starts = [e for e in resources.watch().events() if e.engine == name and e.kind is EventKind.START]
    if not starts or not reading.gpu_memory:
        return None
    before = [sample for sample in resources.sampler().samples() if sample.at_ns < starts[-1].at_ns]
    gpu = before[-1].gpu(reading.gpu_memory[0].gpu) if before else None
    return gpu.free_bytes if gpu else None


@st.cache_data(ttl=300, show_spinner=False)
def _weight_bytes(lane: LaneSpec) -> int | None:
    """The weights as the lane's engine loads them, on each of its GPUs; None if the files can't be read."""
    weight_bytes = lane_weight_bytes(lane)
    return None if weight_bytes is None else weight_bytes // lane.settings.tp


def _metrics(lane: LaneSpec) -> ServerMetrics | None:
    try:
        endpoint = find_endpoint(resources.settings(), lane)
    except LMDynoError:
        return None
    if endpoint is None:
        return None
    return server_metrics(endpoint.url, endpoint.api_key, timeout_s=_TIMEOUT_S)


def _show_parts(name: str, reading: EngineReading, parts: tuple[SplitPart, ...]) -> None:
    total = _total_bytes(reading)
    source = TOTAL_SOURCES[reading.gpu_memory[0].source if reading.gpu_memory else None]
    st.markdown(f"{lane_label(name)} **{units.gib(total)}**  \n:gray[{_(source)}]")
    rows = [f"| {_(part.part)} | {units.gib(part.size_bytes)} | {escape(_(part.source))} |" for part in parts]
    head = f"| {_('part')} | {_('size')} | {_('source')} |"
    st.markdown("\n".join([head, "|:--|--:|:--|", *rows]))


def _show_remote() -> None:
    remote = [lane for lane in resources.lanes().lanes if not lane.is_local]
    for lane in remote:
        load = _metrics(lane)
        facts = _("No `/metrics`")
        if load:
            facts = _(
                "{running} running · {waiting} waiting · KV cache {used}",
                running=units.count(load.running),
                waiting=units.count(load.waiting),
                used=units.UNKNOWN if load.kv_used_ratio is None else f"{load.kv_used_ratio:.0%}",
            )
        st.markdown(f"{lane_label(lane.name)} {facts}")


def show_sweep() -> None:
    st.markdown(
        _(
            "Starts TurboMind with each KV cache setting, sends one request, and compares the prediction "
            "with NVML "
            "and the engine's log. Takes about 30 s per point. Keeps running if you leave this page."
        )
    )
    if offers(Action.START_JOB):
        node = choose_node("sweep_node")
        plan = _show_sweep_form(node)
        if plan and is_usable(node):
            try:
                start_sweep(resources.settings(), plan, node=node)
            except LMDynoError as error:
                show_error(error)
    _show_sweeps()


def _show_sweep_form(node: str | None) -> SweepPlan | None:
    readings = resources.sampler().sample().gpus if node is None else gpus_of(node)
    gpus = {gpu.index: f"GPU {gpu.index} · {gpu.name}" for gpu in readings}
    models = {model.name: model for model in resources.lanes().models}
    if not gpus or not models:
        if gpus:
            text = _("A sweep needs a model on this machine, but all lanes are endpoints.")
        elif node is None:
            text = _("A sweep needs an NVIDIA GPU, but this machine has none.")
        else:
            text = _("A sweep needs an NVIDIA GPU, but node {node} has none.", node=escape(node))
        st.info(text, icon=":material/memory:")
        return None
    with st.form("sweep", border=True):
        left, right = st.columns(2)
        name = left.selectbox(
            _("Model"),
            list(models),
            key="sweep_model",
        )
        gpu = right.selectbox(
            "GPU",
            list(gpus),
            format_func=gpus.__getitem__,
            key="sweep_gpu" if node is None else f"sweep_gpu_{node}",
        )
        ratios = st.pills(
            _("KV cache ratios"),
            DEFAULT_RATIOS,
            selection_mode="multi",
            default=DEFAULT_RATIOS,
            key="sweep_ratios",
        )
        bits = st.pills(
            _("KV cache bits"),
            KV_BITS,
            selection_mode="multi",
            default=[16],
            key="sweep_bits",
        )
        forms = st.pills(
            _("Weights"),
            FORMS,
            selection_mode="multi",
            default=[FORMS[0]],
            format_func=_,
            key="sweep_weights",
        )
        if not st.form_submit_button(_("Start sweep"), type="primary", icon=":material/play_arrow:"):
            return None
    try:
        return SweepPlan(
            model=models[name], points=grid(ratios, bits, [form == FORMS[1] for form in forms]), gpu=gpu
        )
    except LMDynoError as error:
        show_error(error)
        return None


@st.fragment(run_every=_SWEEP_REFRESH_S)
def _show_sweeps() -> None:
    """The newest sweeps with what they measured so far; refreshes itself."""
    for status in not_deleted(Jobs(resources.settings()).statuses(JOB_KIND)[:_SWEEPS]):
        with st.container(border=True):
            show_job(status, show_detail=_show_measured)


def _show_measured(status: JobStatus) -> None:
    try:
        run = load(resources.settings(), sweep_id(status.spec))
    except LMDynoError as error:
        show_error(error)
        return
    if run and run.points:
        show_sweep_points(status.id, run)


def show_sweep_points(key: str, run: SweepRun, *, export: bool = False) -> None:
    """The chart and the values of the points measured so far."""
    st.caption(f"{escape(run.gpu_name)} · {escape(run.engine_version or units.UNKNOWN)}")
    bars = [
        SweepBar(
            name=result.point.label,
            predicted_bytes=result.predicted_bytes,
            measured_bytes=result.measured_bytes,
        )
        for result in run.points
        if result.predicted_bytes is not None
    ]
    show_chart(
        sweep_chart(bars, _("GPU memory of the engine, GiB")),
        key=f"sweep_{key}",
        alt=_("Predicted and measured memory of each point; values below"),
    )
    error = _("Error")
    names = (
        _("Point"),
        _("KV cache (log)"),
        error,
        _("Tokens"),
        error,
        _("Memory (NVML)"),
        error,
    )
    head = [f"| {' | '.join(names)} |", "|:--|--:|--:|--:|--:|--:|--:|"]
    rows = [
        f"| {escape(r.point.label)} | {units.gib(r.log_kv_bytes)} | {units.percent(r.kv_error_ratio)} "
        f"| {units.count(r.log_kv_tokens)} | {units.percent(r.tokens_error_ratio)} "
        f"| {units.gib(r.measured_bytes)} | {units.percent(r.total_error_ratio)} |"
        for r in run.points
    ]
    with st.expander(_("Values"), icon=":material/table:"):
        st.markdown("\n".join(head + rows))
        st.caption(_("Error: predicted divided by measured, minus 1."))
    if export:
        show_export(
            _("Export JSON"),
            f"sweep {run.plan.id}",
            lambda: encode_plain(run),
            file_name=f"sweep-{run.plan.id}.json",
            key=f"export_{key}",
        )
    for result in run.points:
        if result.error:
            text = _("{name}: {value}", name=result.point.label, value=result.error.message)
            st.caption(f":orange[:material/error:] {escape(text)}")
