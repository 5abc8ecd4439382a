"""A load test on a page: its progress while it runs or waits, and its result when it has ended.

Progress, figures and chart come from the job and the store: whoever opens the page sees the same, also after
a reload or a restart of the dashboard. The board shows the same to a room, a tile for each lane. The history
draws results with the same functions.
"""

from collections.abc import Callable, Collection, Mapping

import streamlit as st

from core import units
from core.bench.passes import described
from core.bench.plan import BenchPlan
from core.bench.results.definitions import DEFINITIONS, Tool
from core.bench.results.result import BenchResult, finished_part, newest_pass
from core.bench.results.tables import Remarks, few_requests_note, remarks
from core.bench.run.job import JOB_KIND, running_benches
from core.charts.load import STATISTICS, conditions
from core.charts.requests import incoming_chart
from core.domain.runs import BenchRecord, HistoryEntry, HistoryFilter, RunKind, RunState
from core.errors import InputError, LMDynoError, StoreError
from core.i18n import N_, _, ngettext
from core.jobs.registry import Jobs, JobState, JobStatus
from core.reports.lane_figures import LaneSpeed, lane_speed
from core.ui.benchmark import result_parts
from core.ui.benchmark.result_parts import View, pass_text, show_all_figures, show_exports, show_points
from core.ui.shared import resources
from core.ui.shared.components import color_of, escape, show_chart, show_error, show_tabs
from core.ui.shared.jobs import WAITING, show_job
from core.ui.shared.presenting import Tile, show_board

_FINISHED = "bench_finished"
"""Session state: the run that has just ended, whose result is wanted."""
_KNOWN = "bench_known_as_running"
_REFRESH_S = 1.0
_CHART_S = 3.0
"""A changed plotly chart replaces the old one, which costs the machine being measured some work."""
_IDLE_S = 4.0
"""How soon a run that another session started is seen."""

_RUN = "bench_run"
"""The widget's key, and its name in the address."""
_SHOWN = 50

BOARD_REFRESH_S = 2.0
_LOOKED_AT = 20
"""Entries among which the board looks for the newest one that has ended."""

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


def show_live() -> None:
    """All runs that go on or wait, the oldest first; refreshes itself."""
    running = _running()
    ids = {status.id for status in running}
    if ended := st.session_state.get(_KNOWN, set()) - ids:
        st.session_state[_FINISHED] = next(iter(ended))
    st.session_state[_KNOWN] = ids
    _show_failed_start(running)
    st.fragment(_show_jobs, run_every=_REFRESH_S if running else _IDLE_S)()
    if any(status.state is JobState.RUNNING for status in running):
        st.fragment(_show_course, run_every=_CHART_S)()


def is_running() -> bool:
    """Whether a run is under way or queued."""
    return bool(_running())


def _running() -> tuple[JobStatus, ...]:
    return running_benches(resources.settings())[::-1]


def _show_failed_start(running: tuple[JobStatus, ...]) -> None:
    """A job that failed before there was a run to show: the newest one only."""
    if running:
        return
    newest = next(iter(Jobs(resources.settings()).statuses(JOB_KIND)), None)
    if newest is None or newest.state is not JobState.FAILED or _has_run(newest.id):
        return
    with st.container(border=True):
        show_job(newest)


def _has_run(run_id: str) -> bool:
    try:
        return resources.bench_runs().run(run_id) is not None
    except StoreError:
        return False


def _show_jobs() -> None:
    running = _running()
    if {status.id for status in running} != st.session_state[_KNOWN]:
        st.rerun()  # the whole page: form, result and the pace of refreshing follow
    for status in running:
        with st.container(border=True):
            show_job(status, end=_("Stop"), show_detail=_show_figures)


def _show_figures(status: JobStatus) -> None:
    """The pass under way in figures."""
    record = _record(status)
    progress = newest_pass(record) if record else None
    if progress is None:
        return
    st.caption(_("Current point: {point}", point=escape(pass_text(progress.bench_pass))))
    with st.container(horizontal=True, gap="small"):
        for label, value, meaning in (
            (
                _("Answered"),
                units.count(progress.answered),
                _("Requests of the current pass, warm-up excluded."),
            ),
            (_("Failed"), units.count(progress.failed), _("Requests of the current pass.")),
            (
                _("TTFT, p50"),
                units.milliseconds(progress.ttft_s),
                _("Answered requests of this pass."),
            ),
            (
                _("TPOT, p50"),
                units.milliseconds(progress.tpot_s),
                _("Answered requests of this pass."),
            ),
            (
                _("System speed"),
                units.tok_per_s(progress.system_tok_per_s),
                _(
                    "Output tokens of the answered requests per second, from the start of the pass "
                    "to the last answer."
                ),
            ),
        ):
            st.metric(label, value, help=meaning, width="content")


def _show_course() -> None:
    """Each answer so far as a dot, and the points that are complete."""
    status = next((job for job in _running() if job.state is JobState.RUNNING), None)
    record = _record(status) if status else None
    if record is None or not record.passes:
        return
    names = [facts.lane.name for facts in record.run.lanes]
    show_chart(
        incoming_chart(record.requests, record.passes, {name: color_of(name) for name in names}),
        key="bench_live_chart",
        alt=_("TTFT and TPOT of the answers so far, by lane: {lanes}", lanes=", ".join(names)),
    )
    complete = finished_part(record)
    if complete.requests:
        show_points(resources.run_records().result(complete))


def _record(status: JobStatus) -> BenchRecord | None:
    """The stored part of a run; None before there is any, and while the store can't be read."""
    if status.state is not JobState.RUNNING:
        return None
    try:
        return _stored(status.id)
    except LMDynoError as error:
        show_error(error)
        return None


def _stored(run_id: str) -> BenchRecord | None:
    """None before anything of the run is stored."""
    try:
        return resources.run_records().record(run_id)
    except LMDynoError as error:
        if error.code != "no-such-run":
            raise
        return None


def show_latest() -> None:
    """A choice among the runs that have ended, and the chosen one's result."""
    try:
        entries = resources.history().entries(HistoryFilter(kind=RunKind.BENCH), limit=_SHOWN)
        ended = {entry.id: entry for entry in entries if entry.state != RunState.RUNNING}
        if not ended:
            _show_nothing(is_running=bool(entries))
            return
        _open(ended)
        chosen = st.selectbox(
            _("Result of"),
            list(ended),
            format_func=lambda run_id: _label(ended[run_id]),
            key=_RUN,
            on_change=_show_address,
        )
        with st.spinner(_("Reading the run")):
            record = resources.run_records().record(chosen)
        show_results(record, key="bench_result")
    except LMDynoError as error:
        show_error(error)


def _open(ended: Collection[str]) -> None:
    """Select the run that has just ended, else the one that the address names."""
    named = st.query_params.get(_RUN)
    if (finished := st.session_state.pop(_FINISHED, None)) in ended:
        st.session_state[_RUN] = finished
        st.query_params.pop(_RUN, None)
    elif _RUN not in st.session_state and named in ended:
        st.session_state[_RUN] = named


def _show_address() -> None:
    # By hand: a bound selectbox would put its label into the address.
    st.query_params[_RUN] = st.session_state[_RUN]


def _show_nothing(*, is_running: bool) -> None:
    if is_running:
        return
    st.info(
        _("There are no results yet. Start the quick look above. Its result appears here in about a minute."),
        icon=":material/speed:",
    )


def _label(entry: HistoryEntry) -> str:
    lanes = ", ".join(entry.lanes)
    named = [entry.title] if lanes in entry.title else [entry.title, lanes]
    return " · ".join([f"{entry.created_at:%Y-%m-%d %H:%M} UTC", *named, _(entry.state)])


def show_benchmark_board() -> None:
    """The run as it stands; call it in a fragment that refreshes itself. Raises StoreError."""
    running = running_benches(resources.settings())
    if running:
        _show_running(running[-1])
        return
    entries = resources.history().entries(HistoryFilter(kind=RunKind.BENCH), limit=_LOOKED_AT)
    ended = next((entry for entry in entries if entry.state != RunState.RUNNING), None)
    if ended is None:
        st.info(_("Nothing has been measured yet."), icon=":material/speed:")
        return
    record = resources.run_records().record(ended.id)
    st.markdown(f"# {escape(_(record.run.title))}", anchors=False)
    show_board(_lane_tiles(record, running=False), key="present_benchmark")


def speed_tile(name: str, speed: LaneSpeed | None, *, note: str = "") -> Tile:
    """A lane's three figures."""
    ttft, decode = (speed.ttft_p50_s, speed.decode_p50_tok_per_s) if speed else (None, None)
    best = speed.system_tok_per_s if speed else None
    return Tile(
        name=name,
        color=color_of(name),
        figures=[
            ("TTFT", units.milliseconds(ttft.value if ttft else None)),
            (_("Decode"), units.tok_per_s(decode.value if decode else None)),
            (_("Best throughput"), units.tok_per_s(best.value if best else None)),
        ],
        note=note,
    )


def _show_running(status: JobStatus) -> None:
    st.markdown(f"# {escape(_(status.spec.title))}", anchors=False)
    st.progress(status.record.progress or 0.0, text=escape(_(status.record.stage or WAITING)))
    record = _stored(status.id)
    if record is not None:
        show_board(_lane_tiles(record, running=True), key="present_benchmark")


def _lane_tiles(record: BenchRecord, *, running: bool) -> list[Tile]:
    """The lanes' figures, of a run that goes on those of its complete passes."""
    complete = finished_part(record) if running else record
    speeds = {}
    if complete.requests:
        result = resources.run_records().result(complete)
        speeds = {
            facts.lane.name: lane_speed(complete, result, facts.lane.name) for facts in record.run.lanes
        }
    progress = newest_pass(record) if running else None
    notes = {}
    if progress is not None:
        note = _(
            "{point}: {n} answered",
            point=pass_text(progress.bench_pass),
            n=units.count(progress.answered),
        )
        notes = dict.fromkeys(progress.bench_pass.lanes, note)
    for facts in record.run.lanes:
        if facts.error:
            notes[facts.lane.name] = _(facts.error.message)
    return [
        speed_tile(facts.lane.name, speeds.get(facts.lane.name), note=notes.get(facts.lane.name, ""))
        for facts in record.run.lanes
    ]


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
