"""Reads a scorecard's figures from the store; what was computed once is kept, for all sessions."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Protocol, TypeVar

from core.bench.results.result import RunRecords
from core.domain.runs import MeasuredLane, QualityRecord
from core.domain.specs import LaneSpec
from core.domain.turns import Machine
from core.quality.results import Outcome, results
from core.quality.verdict import verdicts
from core.scorecard.card import LaneNow, LaneQualityFigure, Scorecard, scorecard
from core.scorecard.speed import LaneSpeed, lane_speed
from core.telemetry.nvml import describe_machine

_KEPT = 64
Key = TypeVar("Key")
Value = TypeVar("Value")


class BenchSource(Protocol):
    def measured(self, names: Collection[str], *, limit: int = 100) -> tuple[MeasuredLane, ...]: ...


class QualitySource(BenchSource, Protocol):
    def record(self, run_id: str) -> QualityRecord: ...


class ScorecardReader:
    """Thread-safe; reading raises StoreError."""

    def __init__(
        self,
        bench_runs: BenchSource,
        quality_runs: QualitySource,
        run_records: RunRecords,
        *,
        describe: Callable[[], Machine] = describe_machine,
    ) -> None:
        self._bench_runs = bench_runs
        self._quality_runs = quality_runs
        self._run_records = run_records
        self._describe = describe
        self._machine: Machine | None = None
        self._lock = threading.Lock()
        self._speeds: OrderedDict[tuple[str, str], LaneSpeed | None] = OrderedDict()
        self._qualities: OrderedDict[tuple[str, str], LaneQualityFigure | None] = OrderedDict()

    def scorecard(
        self, lanes: Sequence[LaneSpec], baseline: str, versions: Mapping[str, str | None]
    ) -> Scorecard:
        """The scorecard of these lanes as they are now (`core.scorecard.card`).

        `versions` are those of the engines that run, by lane.
        """
        names = [lane.name for lane in lanes]
        machine = self._this_machine()
        return scorecard(
            [LaneNow(lane=lane, engine_version=versions.get(lane.name), machine=machine) for lane in lanes],
            baseline,
            benched=self._bench_runs.measured(names),
            assessed=self._quality_runs.measured(names),
            speed_of=self._speed,
            quality_of=self._quality,
        )

    def _this_machine(self) -> Machine:
        with self._lock:
            if self._machine is None:
                self._machine = self._describe()
            return self._machine

    def _speed(self, run: MeasuredLane) -> LaneSpeed | None:
        key = (run.run_id, run.lane.name)
        with self._lock:
            if key in self._speeds:
                return self._speeds[key]
        record = self._run_records.record(run.run_id)
        result = self._run_records.result(record)
        speed = lane_speed(record, result, run.lane.name)
        with self._lock:
            _keep(self._speeds, key, speed)
        return speed

    def _quality(self, run: MeasuredLane) -> LaneQualityFigure | None:
        key = (run.run_id, run.lane.name)
        with self._lock:
            if key in self._qualities:
                return self._qualities[key]
        figures = _quality_figures(self._quality_runs.record(run.run_id))
        with self._lock:
            for lane, figure in figures.items():
                _keep(self._qualities, (run.run_id, lane), figure)
        return figures.get(run.lane.name)


def _quality_figures(record: QualityRecord) -> dict[str, LaneQualityFigure]:
    """All lanes of a run at once, since grading its answers takes most of the time."""
    result = results(record)
    sentences = {verdict.lane: verdict.sentence for verdict in verdicts(result)}
    return {
        lane.name: LaneQualityFigure(
            run_id=record.run.id,
            measured_at=record.run.created_at,
            right=lane.tasks.outcomes[Outcome.RIGHT] if lane.tasks else None,
            asked=lane.tasks.asked if lane.tasks else None,
            interval=lane.tasks.interval if lane.tasks else None,
            sentence=sentences[lane.name],
        )
        for lane in result.lanes
    }


def _keep(cache: OrderedDict[Key, Value], key: Key, value: Value) -> None:
    cache[key] = value
    while len(cache) > _KEPT:
        cache.popitem(last=False)
