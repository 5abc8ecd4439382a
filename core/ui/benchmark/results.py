"""A load test's result on a page: figures, charts, definitions, exports. For any page that shows a run."""

from collections.abc import Callable, Mapping

import streamlit as st

from core import units
from core.bench.results.definitions import DEFINITIONS, Tool
from core.bench.results.result import BenchResult
from core.bench.statistics import P95_MIN_N, P99_MIN_N
from core.charts.load import STATISTICS, conditions
from core.domain.bench import BenchRecord, RunState
from core.errors import InputError
from core.ui.benchmark import result_tabs as bench_tabs
from core.ui.benchmark.result_tables import show_all_figures, show_points
from core.ui.benchmark.result_view import View, show_exports
from core.ui.shared import resources
from core.ui.shared.components import color_of, escape, show_error

_TOOL_NAMES = {
    Tool.LMDYNO: "LMDyno",
    Tool.VLLM: "vLLM",
    Tool.SGLANG: "SGLang",
    Tool.LMDEPLOY: "LMDeploy",
    Tool.GUIDELLM: "GuideLLM",
    Tool.AIPERF: "AIPerf",
}
_STATE_BADGES = {
    RunState.RUNNING: ":orange-badge[running]",
    RunState.DONE: ":green-badge[done]",
    RunState.STOPPED: ":gray-badge[stopped]",
    RunState.FAILED: ":red-badge[failed]",
}
_TABS: Mapping[str, Callable[[View], None]] = {
    ":material/timer: Latency": bench_tabs.show_latency,
    ":material/speed: Throughput": bench_tabs.show_throughput,
    ":material/stacked_line_chart: Gaps": bench_tabs.show_gaps,
    ":material/view_timeline: Timeline": bench_tabs.show_timeline,
    ":material/compare_arrows: Lanes": bench_tabs.show_comparison,
    ":material/memory: Resources": bench_tabs.show_resources,
    ":material/error: Failures": bench_tabs.show_failures,
}


def show_results(record: BenchRecord, *, key: str) -> None:
    """Draw everything that is known of a run, also of one that was stopped or has failed.

    `key` is the prefix of the widgets' keys, so that a page may show several runs.
    """
    _show_head(record)
    try:
        with st.spinner("Computing the figures"):
            result = resources.run_records().result(record)
    except InputError as error:  # a plan of a later version
        show_error(error)
        return
    if not result.points:
        st.info("No request had ended, so there are no figures.", icon=":material/hourglass_empty:")
        return
    view = _show_options(record, key)
    show_points(view.result)
    _show_remarks(view.result)
    tabs = st.tabs(list(_TABS), on_change="rerun", key=f"{key}_tab")
    for tab, show in zip(tabs, _TABS.values(), strict=True):
        if tab.open:
            with tab:
                show(view)
    with st.expander("All figures", icon=":material/table:", on_change="rerun", key=f"{key}_all") as figures:
        if figures.open:
            show_all_figures(view.result)
    show_exports(view)


def _show_head(record: BenchRecord) -> None:
    run = record.run
    st.markdown(f"**{escape(run.title)}** {_STATE_BADGES[run.state]}")
    machine = run.machine
    facts = [
        f"{run.created_at:%Y-%m-%d %H:%M} UTC",
        *([machine.host, *machine.gpus, machine.cpu or "", machine.platform] if machine else []),
        f"LMDyno {run.lmdyno}",
        *dict.fromkeys(
            f"{lane.engine_version} on {lane.device}" if lane.device else lane.engine_version
            for lane in run.lanes
            if lane.engine_version
        ),
        "imported" if run.imported else "",
    ]
    st.caption(" · ".join(escape(fact) for fact in facts if fact))
    if run.error:
        show_error(run.error)
    for lane in run.lanes:
        if lane.error and lane.error != run.error:
            st.markdown(f"{escape(lane.lane.name)} took no part:")
            show_error(lane.error)


def _show_options(record: BenchRecord, key: str) -> View:
    with st.container(horizontal=True, vertical_alignment="bottom"):
        tool = st.segmented_control(
            "Definitions of",
            list(_TOOL_NAMES),
            format_func=_TOOL_NAMES.__getitem__,
            default=Tool.LMDYNO,
            required=True,
            key=f"{key}_definition",
            help="The same timestamps under the formulas of other tools, to hold our figures against theirs.",
            persist_state="session",
        )
        statistic = st.segmented_control(
            "Drawn",
            list(STATISTICS),
            default="p50",
            required=True,
            key=f"{key}_statistic",
            persist_state="session",
        )
        image = st.segmented_control(
            "Save charts as",
            ["PNG", "SVG"],
            default="PNG",
            required=True,
            key=f"{key}_image",
            help="The camera above each chart saves it.",
            persist_state="session",
        )
        log = st.toggle("Logarithmic", key=f"{key}_log", persist_state="session")
    st.caption(_definition_note(tool))
    names = [facts.lane.name for facts in record.run.lanes]
    return View(
        key=key,
        record=record,
        result=resources.run_records().result(record, tool),
        colors={name: color_of(name) for name in names},
        statistic=statistic,
        log=log,
        image=image.lower(),
    )


def _definition_note(tool: Tool) -> str:
    """What is different under a tool's definitions, in one line."""
    ours, theirs = DEFINITIONS[Tool.LMDYNO], DEFINITIONS[tool]
    if tool is Tool.LMDYNO:
        return f"TTFT: {escape(ours.ttft)} · TPOT: {escape(ours.tpot)} · E2E: {escape(ours.e2e)}"
    pairs = {
        "TTFT": (ours.ttft, theirs.ttft),
        "TPOT": (ours.tpot, theirs.tpot),
        "ITL": (ours.itl, theirs.itl),
        "E2E": (ours.e2e, theirs.e2e),
        "tokens": (ours.tokens, theirs.tokens),
        "system speed": (ours.throughput, theirs.throughput),
    }
    differing = (f"{name}: {escape(other)}" for name, (own, other) in pairs.items() if own != other)
    return f"Other than ours in {escape(theirs.title)}: {' · '.join(differing)}"


def _show_remarks(result: BenchResult) -> None:
    """How it was measured, and what must be known about the figures."""
    plan = result.plan
    parts = [
        conditions(result),
        f"{plan.warmup} warm-up requests before each point, left out",
        f"{plan.repeats} repeats in alternating order" if plan.repeats > 1 else "one repeat",
        f"seed {plan.seed}",
        f"grey: too few requests for that percentile (p95 needs {P95_MIN_N}, p99 {P99_MIN_N})",
    ]
    st.caption(escape(" · ".join(parts)))
    notes = dict.fromkeys(
        f"{point.lane}: {note}" for point in result.points for note in point.notes if "measured" not in note
    )
    notes |= dict.fromkeys(
        f"{lane} is saturated at concurrency {at}" for lane, at in result.saturation.items()
    )
    if limits := plan.limits:
        kept = {"TTFT": limits.ttft_s, "TPOT": limits.tpot_s, "E2E": limits.e2e_s}
        given = ", ".join(f"{name} {units.milliseconds(value)}" for name, value in kept.items() if value)
        notes[f"Goodput counts requests that kept all of: {given}"] = None
    if notes:
        st.caption("  \n".join(f":material/info: {escape(note)}" for note in notes))
