"""The tabs of a load test's result, each with its charts."""

from collections.abc import Sequence

import streamlit as st

from core import units
from core.bench.results.definitions import DEFINITIONS
from core.bench.roofline.bandwidth import measured_bandwidth
from core.bench.roofline.utilisation import BandwidthUtilisation, utilisations
from core.charts.load import (
    LATENCIES,
    THROUGHPUTS,
    isolation_text,
    latency_chart,
    pareto_chart,
    throughput_chart,
)
from core.charts.load_bars import (
    energy_chart,
    failures_chart,
    interference_chart,
    memory_chart,
    speed_up_chart,
    utilisation_chart,
)
from core.charts.requests import gaps_chart, timeline_chart
from core.domain.bench import BenchPass, LaneFacts
from core.i18n import _
from core.ui.benchmark.bandwidth import offer_bandwidth
from core.ui.benchmark.result_tables import pass_text, show_queueing
from core.ui.benchmark.result_view import View
from core.ui.shared import resources
from core.ui.shared.components import escape

_TIMELINE_REQUESTS = 400
"""A timeline of more would be a block of one colour."""


def show_latency(view: View) -> None:
    known = [name for name, (_, value) in LATENCIES.items() if any(map(value, view.result.points))]
    if "ITL" in known and all(point.itl_s == point.icl_s for point in view.result.points):
        known.remove("ICL")  # every chunk was one token
    with st.grid(2, min_column_width=440):
        for name in known:
            figure = latency_chart(view.result, name, view.colors, statistic=view.statistic, log=view.log)
            title = LATENCIES[name][0]
            view.show(figure, name.lower(), f"{name}, {title}, against the load; figures are in the table")
    show_queueing(view.result)


def show_throughput(view: View) -> None:
    with st.grid(2, min_column_width=440):
        view.show(
            pareto_chart(view.result, view.colors),
            "pareto",
            "System speed against the decode speed of one request; figures are in the table",
        )
        for name, (title, _, value) in THROUGHPUTS.items():
            if any(value(point) is not None for point in view.result.points):
                figure = throughput_chart(view.result, name, view.colors, log=view.log)
                view.show(figure, name, f"{title} against the load; figures are in the table")
    if view.result.plan.limits is None:
        st.caption("Goodput needs limits: they are among the benchmark's settings.")


def show_gaps(view: View) -> None:
    record = view.record
    levels = list(dict.fromkeys((each.level, each.together) for each in record.passes))
    level, together = st.selectbox(
        "Load",
        levels,
        format_func=lambda each: _(each[0].label) + (", together" if each[1] else ""),
        key=f"{view.key}_gaps_load",
        width=300,
    )
    numbers = {each.number for each in record.passes if (each.level, each.together) == (level, together)}
    definition = DEFINITIONS[view.result.tool]
    subtitle = f"{_(level.label)}, {isolation_text(view.result.plan, together=together)}"
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
    view.show(figure, "gaps", "What share of the gaps between tokens is how short, by lane")


def show_timeline(view: View) -> None:
    passes = [
        each for each in view.record.passes if each.end_ns is not None or each is view.record.passes[-1]
    ]
    each = st.selectbox("Pass", passes, format_func=pass_text, key=f"{view.key}_timeline_pass", width=420)
    own = [r for r in view.record.requests if r.pass_number == each.number and not r.warmup]
    shown = own[:_TIMELINE_REQUESTS]
    if len(own) > len(shown):
        st.caption(f"The first {len(shown)} of {len(own):,} requests.")
    subtitle = f"{pass_text(each)}, {isolation_text(view.result.plan, together=each.together)}"
    figure = timeline_chart(each, shown, view.colors, subtitle=subtitle)
    view.show(figure, "timeline", f"When each request of the pass waited and was answered: {pass_text(each)}")


def show_comparison(view: View) -> None:
    result = view.result
    with st.grid(2, min_column_width=440):
        if result.speed_ups:
            view.show(
                speed_up_chart(result, view.colors),
                "speed-up",
                "Decode speed of each lane over the baseline's: "
                + ", ".join(f"{each.lane} {units.ratio(each.tpot_ratio.value)}" for each in result.speed_ups),
            )
        if result.interference:
            view.show(
                interference_chart(result, view.colors),
                "interference",
                "TPOT together over TPOT alone: "
                + ", ".join(
                    f"{each.lane} {units.ratio(each.tpot_ratio.value)}" for each in result.interference
                ),
            )
        _show_reach(view)
    if not result.speed_ups and len(result.plan.lanes) < 2:
        st.caption("One lane has nothing to be compared with.")


def _show_reach(view: View) -> None:
    settings = resources.resources().settings
    found = utilisations(view.result, view.record.passes, lambda name: measured_bandwidth(settings, name))
    with st.container():
        if found:
            shares = ", ".join(f"{each.lane} {each.share:.0%}" for each in found)
            view.show(
                utilisation_chart(found, view.colors),
                "limit",
                f"Share of the memory bandwidth's limit: {shares}",
            )
        st.markdown("**How close to the limit** (theory)")
        for facts in view.record.run.lanes:
            utilisation = next((each for each in found if each.lane == facts.lane.name), None)
            text = _limit_text(utilisation) if utilisation else _why_no_limit(view, facts)
            st.caption(f"{escape(facts.lane.name)}: {escape(text)}")
        offer_bandwidth(found, key=f"{view.key}-bandwidth")


def _limit_text(utilisation: BandwidthUtilisation) -> str:
    limit = utilisation.limit
    return (
        f"{units.tok_per_s(utilisation.decode_tok_per_s)} of {units.tok_per_s(limit.decode_tok_per_s)}, "
        f"that is {units.gib(limit.weight_bytes)} of weights at "
        f"{limit.bandwidth_bytes_per_s / 1e9:,.0f} GB/s ({utilisation.bandwidth_source}), "
        f"n = {utilisation.n:,}"
    )


def _why_no_limit(view: View, facts: LaneFacts) -> str:
    alone = [point for point in view.result.points if point.lane == facts.lane.name and not point.is_together]
    if facts.device is None:
        return "not known: its weights and its GPU are on another machine"
    if not facts.device.startswith("cuda"):
        return "not known: it ran on the CPU, and the bandwidth of the host's memory is in no table"
    if not any(point.level.concurrency == 1 for point in alone):
        return "not known: it was not measured alone at concurrency 1"
    return "not known: the size of its weights or the bandwidth of its GPU is missing"


def show_resources(view: View) -> None:
    points = view.result.points
    has_memory = any(p.peak_gpu_bytes is not None or p.peak_resident_bytes is not None for p in points)
    with st.grid(2, min_column_width=440):
        if has_memory:
            view.show(
                memory_chart(view.result, view.colors),
                "memory",
                "Peak memory of each engine; figures are under All figures",
            )
        if any(point.energy_j_per_token is not None for point in points):
            view.show(
                energy_chart(view.result, view.colors),
                "energy",
                "Energy for each output token; figures are under All figures",
            )
    if not has_memory:
        st.caption(
            "Memory: not known. The engines ran on other machines, or ended before a sample was taken."
        )
    for reason in _energy_gaps(view.record.passes):
        st.caption(f"Energy: not known. {escape(reason)}")


def _energy_gaps(passes: Sequence[BenchPass]) -> tuple[str, ...]:
    gpus = [gpu for each in passes for gpu in each.gpus]
    if not gpus:
        return ("It is measured on NVIDIA GPUs of this machine, and no lane used one.",)
    return tuple(dict.fromkeys(f"{gpu.name}: {gpu.energy_gap}" for gpu in gpus if gpu.energy_gap))


def show_failures(view: View) -> None:
    if not any(point.requests.failed for point in view.result.points):
        st.caption(":green[:material/check_circle:] No request failed.")
        return
    view.show(failures_chart(view.result), "failures", "Failed requests by cause, for each lane and load")
    errors = {r.error.code: r.error for r in view.record.requests if r.error and not r.warmup}
    for code, error in errors.items():
        st.markdown(f"`{code}` {escape(error.message)}. {escape(error.hint)}")
