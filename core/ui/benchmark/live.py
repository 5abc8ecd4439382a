"""Load tests that run or wait, and the result of the newest one, or of one that was chosen.

Progress, figures and chart come from the job and the store: whoever opens the page sees the same, also after
a reload or a restart of the dashboard. The board shows the same to a room, a tile for each lane.
"""

from collections.abc import Collection

import streamlit as st

from core import units
from core.bench.results.result import finished_part, newest_pass
from core.bench.run.job import JOB_KIND, running_benches
from core.charts.requests import incoming_chart
from core.domain.runs import BenchRecord, HistoryEntry, HistoryFilter, RunKind, RunState
from core.errors import LMDynoError, StoreError
from core.i18n import _
from core.jobs.registry import Jobs, JobState, JobStatus
from core.scorecard.speed import LaneSpeed, lane_speed
from core.ui.benchmark.result_parts import pass_text, show_points
from core.ui.benchmark.results import show_results
from core.ui.shared import resources
from core.ui.shared.components import color_of, escape, show_chart, show_error
from core.ui.shared.jobs import WAITING, show_job
from core.ui.shared.presenting import Tile, show_board

FINISHED = "bench_finished"
"""Session state: the run that has just ended, whose result is wanted."""
_KNOWN = "bench_known_as_running"
_REFRESH_S = 1.0
_CHART_S = 3.0
"""A changed plotly chart replaces the old one, which costs the machine being measured some work."""
_IDLE_S = 4.0
"""How soon a run that another session started is seen."""

RUN = "bench_run"
"""The widget's key, and its name in the address."""
_SHOWN = 50

BOARD_REFRESH_S = 2.0
_LOOKED_AT = 20
"""Entries among which the board looks for the newest one that has ended."""


def show_live() -> None:
    """All runs that go on or wait, the oldest first; refreshes itself."""
    running = _running()
    ids = {status.id for status in running}
    if ended := st.session_state.get(_KNOWN, set()) - ids:
        st.session_state[FINISHED] = next(iter(ended))
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
            key=RUN,
            on_change=_show_address,
        )
        with st.spinner(_("Reading the run")):
            record = resources.run_records().record(chosen)
        show_results(record, key="bench_result")
    except LMDynoError as error:
        show_error(error)


def _open(ended: Collection[str]) -> None:
    """Select the run that has just ended, else the one that the address names."""
    named = st.query_params.get(RUN)
    if (finished := st.session_state.pop(FINISHED, None)) in ended:
        st.session_state[RUN] = finished
        st.query_params.pop(RUN, None)
    elif RUN not in st.session_state and named in ended:
        st.session_state[RUN] = named


def _show_address() -> None:
    # By hand: a bound selectbox would put its label into the address.
    st.query_params[RUN] = st.session_state[RUN]


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
