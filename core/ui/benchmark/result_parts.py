"""Parts of a load test's result: how it is looked at, its tables and exports, and tabs with charts."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import streamlit as st

from core import units
from core.bench.bandwidth import BandwidthUtilisation, measure_bandwidth, measured_bandwidth, utilisations
from core.bench.results.definitions import DEFINITIONS
from core.bench.results.result import BenchResult, Interference, SpeedUp
from core.bench.results.tables import (
    LATENCIES,
    Cell,
    Row,
    Table,
    Tone,
    distributions_table,
    points_table,
    queueing_table,
    repeats_table,
    resources_table,
)
from core.charts.comparison import (
    energy_chart,
    failures_chart,
    interference_chart,
    memory_chart,
    speed_up_chart,
    utilisation_chart,
)
from core.charts.load import (
    LATENCY_TITLES,
    THROUGHPUTS,
    Figure,
    isolation_text,
    latency_chart,
    pareto_chart,
    throughput_chart,
)
from core.charts.requests import gaps_chart, timeline_chart
from core.domain.runs import BenchPass, BenchRecord, BenchRun, LaneFacts, LoadLevel, RunKind
from core.errors import LMDynoError
from core.i18n import _
from core.reports.html import TIMELINE_REQUESTS, report_html
from core.reports.run_json import bench_to_json
from core.reports.tables import requests_csv, requests_parquet
from core.telemetry.samples import GpuReading
from core.ui.shared import resources
from core.ui.shared.components import escape, lane_label, show_error
from core.ui.shared.visitor import show_export


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    key: str
    """Prefix of the widgets' keys."""
    record: BenchRecord
    result: BenchResult
    colors: Mapping[str, str]
    statistic: str
    log: bool
    image: str
    """Format that the charts' camera saves: `png` or `svg`."""

    def show(self, figure: Figure, name: str, alt: str) -> None:
        """Draw a chart; `name` is unique within the run."""
        config = chart_tools(self.image, f"lmdyno-{self.record.run.id[:8]}-{name}")
        st.plotly_chart(figure, key=f"{self.key}_{name}", config=config, alt=alt)


def chart_tools(image: str, filename: str) -> dict[str, Any]:
    """plotly's tools above a chart; the camera saves a `image`, which is `png` or `svg`."""
    return {
        "displaylogo": False,
        "displayModeBar": True,
        "modeBarButtons": [["toImage", "resetScale2d"]],  # zooming goes by dragging
        "toImageButtonOptions": {"format": image, "filename": filename, "scale": 2},
    }


def file_stem(run: BenchRun) -> str:
    """A file name that says what is in it: title, date and the beginning of the id."""
    title = re.sub(r"[^\w.-]+", "-", run.title).strip("-")[:60]
    return f"lmdyno-{title}-{run.created_at:%Y%m%d-%H%M}-{run.id[:6]}"


def show_exports(view: View) -> None:
    record, result, colors = view.record, view.result, view.colors
    formats: dict[str, tuple[Callable[[], bytes], str]] = {
        "JSON": (
            lambda: bench_to_json(result, record, raw=True),
            _("Everything, with every timestamp. Can be imported again."),
        ),
        "CSV": (lambda: requests_csv(record).encode(), _("One row per request.")),
        "Parquet": (lambda: requests_parquet(record), _("One row per request.")),
        "HTML": (
            lambda: report_html(result, record, colors).encode(),
            _("A report with interactive charts that opens without a network."),
        ),
    }
    with st.container(horizontal=True):
        for name, (make, meaning) in formats.items():
            show_export(
                name,
                f"{RunKind.BENCH} {record.run.id} as {name}",
                make,
                file_name=f"{file_stem(record.run)}.{name.lower()}",
                key=f"{view.key}_export_{name.lower()}",
                meaning=meaning,
            )


def show_points(result: BenchResult) -> None:
    """A row per lane and load; percentiles of too few requests are grey."""
    st.markdown(markdown(points_table(result), is_small=True))


def show_queueing(result: BenchResult) -> None:
    """How long requests waited before they were sent and in the engine, where that is known."""
    if (table := queueing_table(result)) is not None:
        _show_titled(table)


def show_all_figures(result: BenchResult) -> None:
    """Every latency with its interval and percentiles, agreement of repeats, and resources."""
    for table in (distributions_table(result), repeats_table(result), resources_table(result)):
        if table is not None and table.rows:
            _show_titled(table)


def markdown(table: Table, *, is_small: bool = False) -> str:
    """The table as Streamlit's Markdown; a number and its unit stay in one line, a heading may take two."""
    marks = [":--" if place < table.words else "--:" for place in range(len(table.head))]
    lines = [[escape(name) for name in table.head], marks, *(_cells(row) for row in table.rows)]
    if is_small:
        lines = [line if line is marks else [f":small[{cell}]" for cell in line] for line in lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def pass_text(bench_pass: BenchPass) -> str:
    """Such as `hf + awq · concurrency 4, repeat 2`."""
    lanes, load = " + ".join(bench_pass.lanes), bench_pass.level.label
    if bench_pass.repeat:
        return _("{lanes} · {load}, repeat {number}", lanes=lanes, load=load, number=bench_pass.repeat + 1)
    return _("{lanes} · {load}", lanes=lanes, load=load)


def _show_titled(table: Table) -> None:
    st.markdown(f"**{escape(table.title)}**")
    st.markdown(markdown(table))
    if table.notes:
        st.caption("  \n".join(escape(note) for note in table.notes))


def _cells(row: Row) -> Sequence[str]:
    label = lane_label(row.lane)
    if row.is_together:
        label = _("{lane} (together)", lane=label)
    return [_unbroken(label), *(_cell(cell) for cell in row.cells)]


def _cell(cell: Cell) -> str:
    text = _unbroken(escape(cell.text))
    match cell.tone:
        case Tone.FAINT:
            return f":gray[{text}]"
        case Tone.BAD:
            return f":red[{text}]"
        case Tone.PLAIN:
            return text


def _unbroken(text: str) -> str:
    return text.replace(" ", "\N{NO-BREAK SPACE}")


def _ratios(each_lane: Sequence[SpeedUp | Interference]) -> str:
    return ", ".join(f"{each.lane} {units.ratio(each.tpot_ratio.value)}" for each in each_lane)


def _level_text(level: LoadLevel, together: bool) -> str:
    return _("{load}, together", load=level.label) if together else _(level.label)


def show_latency(view: View) -> None:
    known = [name for name, value in LATENCIES.items() if any(map(value, view.result.points))]
    if "ITL" in known and all(point.itl_s == point.icl_s for point in view.result.points):
        known.remove("ICL")  # every chunk was one token
    with st.grid(2, min_column_width=440):
        for name in known:
            figure = latency_chart(view.result, name, view.colors, statistic=view.statistic, log=view.log)
            title = LATENCY_TITLES[name]
            view.show(
                figure,
                name.lower(),
                _(
                    "{metric}, {meaning}, against the load; values in the table",
                    metric=name,
                    meaning=_(title),
                ),
            )
    show_queueing(view.result)


def show_throughput(view: View) -> None:
    with st.grid(2, min_column_width=440):
        view.show(
            pareto_chart(view.result, view.colors),
            "pareto",
            _("System throughput against the decode speed of one request; values in the table"),
        )
        for name, (title, _unit, value) in THROUGHPUTS.items():
            if any(value(point) is not None for point in view.result.points):
                figure = throughput_chart(view.result, name, view.colors, log=view.log)
                view.show(figure, name, _("{figure} against the load; values in the table", figure=_(title)))
    if view.result.plan.limits is None:
        st.caption(_("Set latency limits under More settings to see goodput."))


def show_gaps(view: View) -> None:
    record = view.record
    levels = list(dict.fromkeys((bench_pass.level, bench_pass.together) for bench_pass in record.passes))
    level, together = st.selectbox(
        _("Load"),
        levels,
        format_func=lambda option: _level_text(*option),
        key=f"{view.key}_gaps_load",
        width=300,
    )
    numbers = {
        bench_pass.number
        for bench_pass in record.passes
        if (bench_pass.level, bench_pass.together) == (level, together)
    }
    definition = DEFINITIONS[view.result.tool]
    isolation = isolation_text(view.result.plan, together=together)
    subtitle = _("{load}, {isolation}", load=level.label, isolation=isolation)
    figure = resources.run_records().derived(
        record,
        f"gaps/{definition.tool}/{level}/{together}/{view.log}",
        lambda: gaps_chart(
            [request for request in record.requests if request.pass_number in numbers],
            view.colors,
            log=view.log,
            definition=definition,
            subtitle=subtitle,
        ),
    )
    view.show(figure, "gaps", _("Cumulative distribution of inter-token gaps, by lane"))


def show_timeline(view: View) -> None:
    passes = [
        bench_pass
        for bench_pass in view.record.passes
        if bench_pass.end_ns is not None or bench_pass is view.record.passes[-1]
    ]
    bench_pass = st.selectbox(
        _("Pass"), passes, format_func=pass_text, key=f"{view.key}_timeline_pass", width=420
    )
    own = [r for r in view.record.requests if r.pass_number == bench_pass.number and not r.warmup]
    shown = own[:TIMELINE_REQUESTS]
    if len(own) > len(shown):
        st.caption(_("The first {shown} of {total} requests.", shown=len(shown), total=f"{len(own):,}"))
    isolation = isolation_text(view.result.plan, together=bench_pass.together)
    subtitle = _("{load}, {isolation}", load=pass_text(bench_pass), isolation=isolation)
    figure = timeline_chart(bench_pass, shown, view.colors, subtitle=subtitle)
    view.show(
        figure, "timeline", _("When each request waited and was answered: {load}", load=pass_text(bench_pass))
    )


def show_comparison(view: View) -> None:
    result = view.result
    with st.grid(2, min_column_width=440):
        if result.speed_ups:
            view.show(
                speed_up_chart(result, view.colors),
                "speed-up",
                _("Decode speed relative to the baseline: {ratios}", ratios=_ratios(result.speed_ups)),
            )
        if result.interference:
            view.show(
                interference_chart(result, view.colors),
                "interference",
                _("TPOT together over TPOT alone: {ratios}", ratios=_ratios(result.interference)),
            )
        _show_utilisation(view)
    if not result.speed_ups and len(result.plan.lanes) < 2:
        st.caption(_("Add a second lane to compare."))


def _show_utilisation(view: View) -> None:
    settings = resources.settings()
    shares_of_lanes = utilisations(
        view.result, view.record.passes, lambda name: measured_bandwidth(settings, name)
    )
    with st.container():
        if shares_of_lanes:
            shares = ", ".join(f"{lane_share.lane} {lane_share.share:.0%}" for lane_share in shares_of_lanes)
            view.show(
                utilisation_chart(shares_of_lanes, view.colors),
                "limit",
                _("Share of the limit set by memory bandwidth: {shares}", shares=shares),
            )
        st.markdown(_("**Model bandwidth utilisation** (theory)"))
        for facts in view.record.run.lanes:
            utilisation = next(
                (lane_share for lane_share in shares_of_lanes if lane_share.lane == facts.lane.name), None
            )
            text = _limit_text(utilisation) if utilisation else _why_no_limit(view, facts)
            st.caption(f"{escape(facts.lane.name)}: {escape(text)}")
        offer_bandwidth(shares_of_lanes, key=f"{view.key}-bandwidth")


def _limit_text(utilisation: BandwidthUtilisation) -> str:
    limit = utilisation.limit
    return _(
        "{speed} of {most}: {weights} of weights at {bandwidth} GB/s ({source}), n = {n}",
        speed=units.tok_per_s(utilisation.decode_tok_per_s),
        most=units.tok_per_s(limit.decode_tok_per_s),
        weights=units.gib(limit.weight_bytes),
        bandwidth=f"{limit.bandwidth_bytes_per_s / 1e9:,.0f}",
        source=_(utilisation.bandwidth_source),
        n=f"{utilisation.n:,}",
    )


def _why_no_limit(view: View, facts: LaneFacts) -> str:
    alone = [point for point in view.result.points if point.lane == facts.lane.name and not point.is_together]
    if facts.device is None:
        return _("unknown. Its weights and its GPU are on another machine.")
    if not facts.device.startswith("cuda"):
        return _("unknown. It ran on the CPU, whose memory bandwidth LMDyno has no figure for.")
    if not any(point.level.concurrency == 1 for point in alone):
        return _("unknown. It was not measured alone at concurrency 1.")
    return _("unknown. The size of its weights or the bandwidth of its GPU is missing.")


def show_resources(view: View) -> None:
    points = view.result.points
    has_memory = any(p.peak_gpu_bytes is not None or p.peak_resident_bytes is not None for p in points)
    with st.grid(2, min_column_width=440):
        if has_memory:
            view.show(
                memory_chart(view.result, view.colors),
                "memory",
                _("Peak memory by engine; values under All values"),
            )
        if any(point.energy_j_per_token is not None for point in points):
            view.show(
                energy_chart(view.result, view.colors),
                "energy",
                _("Energy per output token; values under All values"),
            )
    if not has_memory:
        st.caption(
            _("Memory: not available. The engines ran on other machines, or ended before a sample was taken.")
        )
    for reason in _energy_gaps(view.record.passes):
        st.caption(_("Energy: not available. {reason}", reason=escape(reason)))


def _energy_gaps(passes: Sequence[BenchPass]) -> tuple[str, ...]:
    gpus = [gpu for bench_pass in passes for gpu in bench_pass.gpus]
    if not gpus:
        return (_("It is measured only on local NVIDIA GPUs, and no lane used one."),)
    return tuple(
        dict.fromkeys(
            _("{gpu}: {reason}", gpu=gpu.name, reason=_(gpu.energy_gap)) for gpu in gpus if gpu.energy_gap
        )
    )


def show_failures(view: View) -> None:
    if not any(point.requests.failed for point in view.result.points):
        st.caption(_(":green[:material/check_circle:] No request failed."))
        return
    view.show(failures_chart(view.result), "failures", _("Failed requests by cause, per lane and load"))
    errors = {r.error.code: r.error for r in view.record.requests if r.error and not r.warmup}
    for code, error in errors.items():
        st.markdown(f"`{code}` {escape(_(error.message))} {escape(_(error.hint))}")


def offer_bandwidth(shares: Sequence[BandwidthUtilisation], *, key: str) -> None:
    """A button, if a GPU of this machine is one of those that only the data sheet is known of."""
    by_sheet = {
        name for utilisation in shares if utilisation.measured is None for name in utilisation.gpu_names
    }
    gpu = next((gpu for gpu in _gpus() if gpu.name in by_sheet), None)
    if gpu is None or not st.button(
        _("Measure this GPU's bandwidth"),
        key=key,
        icon=":material/speed:",
        help=_(
            "Copies data within the memory of GPU {index} for about ten seconds. The limit then "
            "uses this card's "
            "measured bandwidth.",
            index=gpu.index,
        ),
    ):
        return
    try:
        with st.spinner(_("Copying within the GPU's memory")):
            measure_bandwidth(resources.settings(), gpu_index=gpu.index)
    except LMDynoError as error:
        show_error(error)
    else:
        st.rerun()


def _gpus() -> tuple[GpuReading, ...]:
    """The GPUs of the latest sample."""
    samples = resources.sampler().samples()
    return samples[-1].gpus if samples else ()
