"""A benchmark for a room: a tile for each lane, of the run that goes on or of the newest one."""

import streamlit as st

from core import units
from core.bench.results.result import finished_part, newest_pass
from core.bench.run.job import running_benches
from core.domain.bench import BenchRecord, RunState
from core.domain.history import HistoryFilter, RunKind
from core.errors import LMDynoError
from core.i18n import _
from core.jobs.records import JobStatus
from core.scorecard.speed import LaneSpeed, lane_speed
from core.ui.benchmark.result_tables import pass_text
from core.ui.shared import resources
from core.ui.shared.components import color_of, escape
from core.ui.shared.jobs import WAITING
from core.ui.shared.presenting import Tile, show_board

REFRESH_S = 2.0
_LOOKED_AT = 20


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
    show_board(_tiles(record, running=False), key="present_benchmark")


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
        show_board(_tiles(record, running=True), key="present_benchmark")


def _stored(run_id: str) -> BenchRecord | None:
    """None before anything of the run is stored."""
    try:
        return resources.run_records().record(run_id)
    except LMDynoError as error:
        if error.code != "no-such-run":
            raise
        return None


def _tiles(record: BenchRecord, *, running: bool) -> list[Tile]:
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
