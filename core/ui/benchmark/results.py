"""Draw a benchmark run's result on any page: verdict, table, charts, definitions, exports."""

from collections.abc import Callable, Mapping

import streamlit as st

from core import units
from core.bench.passes import described
from core.bench.plan import BenchPlan
from core.bench.results.definitions import DEFINITIONS, Tool
from core.bench.results.result import BenchResult
from core.bench.results.tables import Remarks, few_requests_note, remarks
from core.charts.load import STATISTICS, conditions
from core.domain.runs import BenchRecord, RunState
from core.errors import InputError
from core.i18n import N_, _, ngettext
from core.ui.benchmark import result_parts
from core.ui.benchmark.result_parts import View, show_all_figures, show_exports, show_points
from core.ui.shared import resources
from core.ui.shared.components import color_of, escape, show_error, show_tabs

_TOOL_NAMES = {
    Tool.LMDYNO: "LMDyno",
    Tool.VLLM: "vLLM",
    Tool.SGLANG: "SGLang",
    Tool.LMDEPLOY: "LMDeploy",
    Tool.GUIDELLM: "GuideLLM",
    Tool.AIPERF: "AIPerf",
}
_STATE_BADGES = {
    RunState.RUNNING: N_(":orange-badge[running]"),
    RunState.DONE: N_(":green-badge[done]"),
    RunState.STOPPED: N_(":gray-badge[stopped]"),
    RunState.FAILED: N_(":red-badge[failed]"),
}
_TABS: Mapping[str, Callable[[View], None]] = {
    N_(":material/timer: Latency"): result_parts.show_latency,
    N_(":material/speed: Throughput"): result_parts.show_throughput,
    N_(":material/stacked_line_chart: Gaps"): result_parts.show_gaps,
    N_(":material/view_timeline: Timeline"): result_parts.show_timeline,
    N_(":material/compare_arrows: Lanes"): result_parts.show_comparison,
    N_(":material/memory: Resources"): result_parts.show_resources,
    N_(":material/error: Failures"): result_parts.show_failures,
}


def show_results(record: BenchRecord, *, key: str) -> None:
    """Draw everything that is known of a run, also of one that was stopped or has failed.

    `key` is the prefix of the widgets' keys, so that a page may show several runs.
    """
    _show_head(record)
    try:
        with st.spinner(_("Computing results")):
            result = resources.run_records().result(record)
    except InputError as error:  # a plan of a later version
        show_error(error)
        return
    if not result.points:
        st.info(_("No request finished, so there are no results."), icon=":material/hourglass_empty:")
        return
    view = _show_options(record, key)
    notes = remarks(view.result)
    _show_verdict(notes)
    show_points(view.result)
    _show_notes(view.result, notes)
    tabs = show_tabs([_(tab) for tab in _TABS], key=f"{key}_tab")
    for tab, show in zip(tabs, _TABS.values(), strict=True):
        if tab.open:
            with tab:
                show(view)
    with st.expander(
        _("All values"), icon=":material/table:", on_change="rerun", key=f"{key}_all"
    ) as figures:
        if figures.open:
            show_all_figures(view.result)
    show_exports(view)


def _show_head(record: BenchRecord) -> None:
    run = record.run
    st.markdown(f"**{escape(run.title)}** {_(_STATE_BADGES[run.state])}")
    machine = run.machine
    facts = [
        f"{run.created_at:%Y-%m-%d %H:%M} UTC",
        *([machine.host, *machine.gpus, machine.cpu or "", machine.platform] if machine else []),
        f"LMDyno {run.lmdyno}",
        *dict.fromkeys(
            _("{engine} on {device}", engine=lane.engine_version, device=lane.device)
            if lane.device
            else lane.engine_version
            for lane in run.lanes
            if lane.engine_version
        ),
        *(
            _("{lane}: {place}", lane=lane.lane.name, place=_(lane.place.caption))
            for lane in run.lanes
            if lane.place and lane.place.caption
        ),
        _("imported") if run.imported else "",
    ]
    st.caption(" · ".join(escape(fact) for fact in facts if fact))
    if run.error:
        show_error(run.error)
    for lane in run.lanes:
        if lane.error and lane.error != run.error:
            st.markdown(_("{lane} was excluded:", lane=escape(lane.lane.name)))
            show_error(lane.error)


def _show_options(record: BenchRecord, key: str) -> View:
    with st.container(horizontal=True, vertical_alignment="bottom"):
        tool = st.segmented_control(
            _("Metric definitions"),
            list(_TOOL_NAMES),
            format_func=_TOOL_NAMES.__getitem__,
            default=Tool.LMDYNO,
            required=True,
            key=f"{key}_definition",
            help=_(
                "Recompute the same timestamps with another tool's definitions, to compare with its numbers."
            ),
            persist_state="session",
        )
        statistic = st.segmented_control(
            _("Statistic"),
            list(STATISTICS),
            format_func=_,
            default="p50",
            required=True,
            key=f"{key}_statistic",
            persist_state="session",
        )
        image = st.segmented_control(
            _("Save charts as"),
            ["PNG", "SVG"],
            default="PNG",
            required=True,
            key=f"{key}_image",
            help=_("The camera above each chart saves it."),
            persist_state="session",
        )
        log = st.toggle(_("Logarithmic"), key=f"{key}_log", persist_state="session")
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
    """The differences under a tool's definitions, in one line."""
    ours, theirs = DEFINITIONS[Tool.LMDYNO], DEFINITIONS[tool]
    if tool is Tool.LMDYNO:
        return f"TTFT: {escape(_(ours.ttft))} · TPOT: {escape(_(ours.tpot))} · E2E: {escape(_(ours.e2e))}"
    pairs = {
        "TTFT": (ours.ttft, theirs.ttft),
        "TPOT": (ours.tpot, theirs.tpot),
        "ITL": (ours.itl, theirs.itl),
        "E2E": (ours.e2e, theirs.e2e),
        _("tokens"): (ours.tokens, theirs.tokens),
        _("system speed"): (ours.throughput, theirs.throughput),
    }
    differing = (f"{name}: {escape(_(other))}" for name, (own, other) in pairs.items() if own != other)
    return _(
        "How {tool}'s definitions differ: {differences}",
        tool=escape(theirs.title),
        differences=" · ".join(differing),
    )


def show_plan(plan: BenchPlan) -> None:
    """The plan in words, a line per setting."""
    lines = (_("**{label}**: {text}", label=fact.label, text=escape(fact.text)) for fact in described(plan))
    st.markdown("  \n".join(lines))


def _show_verdict(notes: Remarks) -> None:
    """The comparison of the lanes and its caveats, above the figures."""
    for sentence in notes.verdict:
        st.markdown(f":material/compare_arrows: {escape(sentence)}")
    if notes.warnings:
        st.warning("  \n".join(escape(line) for line in notes.warnings), icon=":material/balance:")


def _show_notes(result: BenchResult, notes: Remarks) -> None:
    """The conditions of the measurement."""
    plan = result.plan
    parts = [
        conditions(result),
        ngettext(
            "{n} warm-up request per point, excluded", "{n} warm-up requests per point, excluded", plan.warmup
        ),
        ngettext("{n} repeat", "{n} repeats in alternating order", plan.repeats),
        _("seed {seed}", seed=plan.seed),
        few_requests_note(),
    ]
    lines = [" · ".join(parts), *notes.notes]
    if limits := plan.limits:
        kept = {"TTFT": limits.ttft_s, "TPOT": limits.tpot_s, "E2E": limits.e2e_s}
        given = ", ".join(f"{name} {units.milliseconds(value)}" for name, value in kept.items() if value)
        lines.append(_("Goodput counts requests that meet every limit: {limits}", limits=given))
    st.caption("  \n".join(escape(line) for line in lines))
