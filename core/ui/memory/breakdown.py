"""The memory page's split: what each running engine's memory is made of, and what remote servers tell."""

import streamlit as st

from core import units
from core.charts.memory import Bar, parts_chart
from core.chat_api.probe import ServerMetrics, server_metrics
from core.domain.specs import EngineKind, LaneSpec
from core.engines.manager import EngineStatus
from core.engines.registry import EngineState
from core.engines.resolve import find_endpoint
from core.errors import LMDynoError
from core.i18n import _
from core.memory.breakdown import TOTAL_SOURCES, SplitPart, split_memory
from core.memory.model_sizes import lane_weight_bytes
from core.telemetry.samples import EngineReading, EventKind
from core.ui.shared import resources
from core.ui.shared.components import escape, lane_label, show_chart

_REFRESH_S = 5.0
"""LMDeploy renews these figures of its /metrics every ten seconds."""
_TIMEOUT_S = 1.0


@st.fragment(run_every=_REFRESH_S)
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
