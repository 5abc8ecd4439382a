"""The memory page's live part: what GPUs and engines hold and do, over time and right now."""

import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta

import streamlit as st

from core import units
from core.charts.telemetry import live_chart
from core.telemetry.export import to_csv
from core.telemetry.gpus import GpuReading
from core.telemetry.sampler import Sampler
from core.telemetry.samples import EngineReading, MemorySource, Sample
from core.telemetry.series import gpu_lines, host_lines
from core.telemetry.window import window_stats
from core.ui.shared import resources
from core.ui.shared.components import color_of, escape, lane_label

_CARDS_S = 1.0
_CHART_S = 2.0
"""Streamlit puts a changed plotly chart in the place of the old one, which costs the browser some work."""
_FROZEN = "memory_frozen_at_ns"
_RANGES = {"1 min": 60, "5 min": 300, "15 min": 900}
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
        shown = st.segmented_control(
            "Range",
            list(_RANGES),
            default="5 min",
            required=True,
            key="memory_range",
            persist_state="session",
        )
        frozen = st.toggle(
            "Freeze",
            key="memory_freeze",
            on_change=_freeze,
            help="Keeps chart and cards as they are now. Then the chart can be zoomed and moved.",
            persist_state="session",
        )
        st.download_button(
            "CSV",
            data=_csv_later(_RANGES[shown]),
            file_name="lmdyno-memory.csv",
            mime="text/csv",
            icon=":material/download:",
            on_click="ignore",
            help="Every sample of the range. The camera above the chart saves it as PNG.",
        )
    range_s = _RANGES[shown]
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
        st.caption("Nothing was measured in this range.")
        return
    latest = samples[-1]
    if latest.problem:
        st.caption(f":material/info: {escape(latest.problem.message)}. {escape(latest.problem.hint)}")
    reading = latest.gpu(gpu) if gpu is not None else None
    if reading:
        _show_gpu_cards(reading, samples)
    _show_engine_cards(latest, gpu)


def _show_gpu_cards(gpu: GpuReading, samples: Sequence[Sample]) -> None:
    window = window_stats(samples, samples[0].at_ns, samples[-1].at_ns)
    here = next(stats for stats in window.gpus if stats.index == gpu.index)
    used = f"{units.gib(gpu.used_bytes)} of {units.gib(gpu.total_bytes)}"
    with st.container(horizontal=True, gap="small"):
        _card("Memory used", used, gpu.reason("memory"))
        _card("Free", units.gib(gpu.free_bytes), gpu.reason("memory"))
        _card("Utilisation", _text(gpu.utilisation_ratio, "{:.0%}"), gpu.reason("utilisation_ratio"))
        _card("Power", _text(gpu.power_w, "{:.0f} W"), gpu.reason("power_w"))
        _card("Energy in this range", _text(here.energy_j, "{:.0f} J"), here.energy_gap)
        _card("Temperature", _text(gpu.temperature_c, "{:.0f} °C"), gpu.reason("temperature_c"))
        clock = None if gpu.sm_clock_hz is None else gpu.sm_clock_hz / 1e6
        _card("SM clock", _text(clock, "{:.0f} MHz"), gpu.reason("sm_clock_hz"))
        _card("PCIe in / out", _pcie(gpu), gpu.reason("pcie_rx_bytes_per_s"))
    if gpu.throttle_reasons:
        st.caption(
            f":orange[:material/speed:] Clocks are held down: {escape(', '.join(gpu.throttle_reasons))}"
        )
    if reason := gpu.reason("processes"):
        st.caption(
            f":material/info: Memory by engine is the growth since before its start: {escape(reason)}."
        )


def _show_engine_cards(sample: Sample, gpu: int | None) -> None:
    if not sample.engines:
        st.caption("No engine runs. It appears here as soon as one is started.")
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
            how = " by difference" if share.source is MemorySource.DIFFERENCE else ""
            why = f" ({escape(share.reason)})" if share.reason else ""
            facts.append(f"GPU memory: **{units.gib(share.used_bytes)}**{how}{why}")
    facts.append(f"Host memory: **{units.gib(engine.resident_bytes)}**")
    facts.append(f"CPU: **{_text(engine.cpu_ratio, '{:.2f}')}** cores")
    return facts


def _show_chart(gpu: int | None, range_s: int, *, frozen: bool) -> None:
    samples = _samples(range_s)
    if not samples:
        return
    lines = host_lines(samples) if gpu is None else gpu_lines(samples, gpu)
    events = resources.watch().events(samples[0].at_ns)
    what = "Resident memory and CPU share" if gpu is None else f"Memory, load and power of GPU {gpu}"
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
        alt=f"{what} over time, by engine: {', '.join(lines.engine_bytes) or 'no engine runs'}",
    )


def _card(label: str, value: str, gap: str | None) -> None:
    st.metric(label, value, help=gap, width="content")


def _pcie(gpu: GpuReading) -> str:
    rx, tx = (
        units.UNKNOWN if rate is None else f"{rate / 1e6:.0f}"
        for rate in (gpu.pcie_rx_bytes_per_s, gpu.pcie_tx_bytes_per_s)
    )
    return f"{rx} / {tx} MB/s"


def _text(value: float | None, pattern: str) -> str:
    return units.UNKNOWN if value is None else pattern.format(value)
