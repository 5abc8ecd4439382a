"""The results of a run, computed from its facts: in full, in a few figures, and kept for all pages.

Nothing here is stored: it is computed from the timestamps whenever somebody looks, also while a run goes
on. `results` has points and comparisons of lanes. Lists of runs show each lane at its lightest load
(`summarise`), which compares best with a turn of the chat and with runs at other loads. Figures of the
running pass are cheap enough to compute every second during the measurement. `RunRecords` reads and
computes once for all sessions of the dashboard: a run that goes on is read bit by bit, and one that has
ended is kept until others push it out.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar, cast

from core.bench.passes import saturation
from core.bench.plan import BenchPlan, LoadKind
from core.bench.results.definitions import DEFINITIONS, Definition, Tool, system_tok_per_s
from core.bench.results.points import Part, Point, PointKey, point_of
from core.bench.statistics import Ratio, mean_ratio, median_of_known
from core.codec import decode
from core.domain.runs import (
    BenchPass,
    BenchRecord,
    BenchRequest,
    BenchRun,
    LaneSummary,
    LoadLevel,
    RunState,
    Summary,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Interference:
    """A lane's TPOT together with others over its TPOT alone, at the same load."""

    lane: str
    level: LoadLevel
    tpot_ratio: Ratio


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeedUp:
    """The baseline's TPOT over a lane's, at the same load and both alone or both together."""

    lane: str
    together: tuple[str, ...]
    level: LoadLevel
    tpot_ratio: Ratio

    @property
    def is_together(self) -> bool:
        return len(self.together) > 1


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchResult:
    """Everything that is said about a run."""

    run: BenchRun
    plan: BenchPlan
    tool: Tool
    """Whose definitions latencies, speeds, goodput and ratios follow."""
    points: tuple[Point, ...]
    """Lanes alone first, in the plan's order; then lanes together."""
    speed_ups: tuple[SpeedUp, ...]
    interference: tuple[Interference, ...]
    saturation: Mapping[str, int]
    """The concurrency at which each lane is saturated, by a sweep."""

    @property
    def failed(self) -> int:
        """Requests that failed, and lanes that could not take part at all."""
        return sum(point.requests.failed for point in self.points) + sum(
            facts.error is not None for facts in self.run.lanes
        )


def plan_of(run: BenchRun) -> BenchPlan:
    """The plan that a run was made by; raises InputError if this version can't read it."""
    return decode(BenchPlan, run.plan)


def results(record: BenchRecord, tool: Tool = Tool.LMDYNO) -> BenchResult:
    """Everything about a run, with latencies as `tool` defines them."""
    plan = plan_of(record.run)
    groups = _grouped(record)
    facts = {lane_facts.lane.name: lane_facts for lane_facts in record.run.lanes}
    points = tuple(
        point_of(key, parts, facts[key.lane], plan, DEFINITIONS[tool]) for key, parts in groups.items()
    )
    # Only for what compares lanes: it applies the definition to every request once more.
    tpots = _tpots(groups, plan, DEFINITIONS[tool]) if len(plan.lanes) > 1 else {}
    return BenchResult(
        run=record.run,
        plan=plan,
        tool=tool,
        points=points,
        speed_ups=_speed_ups(tpots, plan),
        interference=_interference(tpots, plan),
        saturation=_saturation(points, plan),
    )


def _grouped(record: BenchRecord) -> dict[PointKey, list[Part]]:
    """The measured requests by point, each with one part a pass, in the order of the plan."""
    by_pass: dict[tuple[int, str], list[BenchRequest]] = {}
    for request in record.requests:
        if not request.warmup:
            by_pass.setdefault((request.pass_number, request.lane), []).append(request)
    groups: dict[PointKey, list[Part]] = {}
    for bench_pass in record.passes:
        for lane in bench_pass.lanes:
            if requests := by_pass.get((bench_pass.number, lane)):
                key = PointKey(lane, bench_pass.lanes, bench_pass.level)
                groups.setdefault(key, []).append(Part(bench_pass, tuple(requests)))
    order = [facts.lane.name for facts in record.run.lanes]
    return dict(sorted(groups.items(), key=lambda item: (len(item[0].together), order.index(item[0].lane))))


def _tpots(
    groups: Mapping[PointKey, Sequence[Part]], plan: BenchPlan, definition: Definition
) -> dict[PointKey, list[float]]:
    requested = plan.workload.output_tokens if plan.workload.fixed_output else None
    return {
        key: [
            tpot_s
            for part in parts
            for timing in part.timings
            if (tpot_s := definition.apply(timing, requested).tpot_s) is not None
        ]
        for key, parts in groups.items()
    }


def _interference(tpots: Mapping[PointKey, Sequence[float]], plan: BenchPlan) -> tuple[Interference, ...]:
    found = []
    for key, together in tpots.items():
        alone = tpots.get(replace(key, together=(key.lane,)))
        if key.is_together and alone is not None:
            ratio = mean_ratio(together, alone, seed=plan.seed)
            if ratio is not None:
                found.append(Interference(lane=key.lane, level=key.level, tpot_ratio=ratio))
    return tuple(found)


def _speed_ups(tpots: Mapping[PointKey, Sequence[float]], plan: BenchPlan) -> tuple[SpeedUp, ...]:
    first = plan.lanes[0].name
    speed_ups = []
    for key, own in tpots.items():
        together = key.together if key.is_together else (first,)
        baseline = tpots.get(PointKey(first, together, key.level))
        if key.lane != first and baseline is not None:
            ratio = mean_ratio(baseline, own, seed=plan.seed)
            if ratio is not None:
                speed_ups.append(
                    SpeedUp(lane=key.lane, together=key.together, level=key.level, tpot_ratio=ratio)
                )
    return tuple(speed_ups)


def _saturation(points: Sequence[Point], plan: BenchPlan) -> dict[str, int]:
    if plan.load.kind is not LoadKind.SWEEP:
        return {}
    speeds: dict[str, dict[int, float]] = {}
    for point in points:
        if not point.is_together and point.level.concurrency and point.system_tok_per_s:
            speeds.setdefault(point.lane, {})[point.level.concurrency] = point.system_tok_per_s
    found = {lane: saturation(by_level) for lane, by_level in speeds.items()}
    return {lane: concurrency for lane, concurrency in found.items() if concurrency is not None}


def summarise(record: BenchRecord) -> Summary:
    """p50 of TTFT and of decode speed for each lane, over its answers at the lightest load; warm-up left out.

    A lane that was measured alone is shown alone, otherwise together with the fewest others.
    """
    measured = [request for request in record.requests if not request.warmup]
    return Summary(
        lanes=tuple(_lane(facts.lane.name, record.passes, measured) for facts in record.run.lanes),
        answered=sum(request.ok for request in measured),
        failed=sum(request.failed for request in measured)
        + sum(facts.error is not None for facts in record.run.lanes),
    )


def _lane(name: str, passes: Sequence[BenchPass], requests: Sequence[BenchRequest]) -> LaneSummary:
    chosen = _lightest(name, passes)
    timings = [
        request.timing
        for request in requests
        if request.lane == name and request.pass_number in chosen and request.ok and request.timing
    ]
    return LaneSummary(
        lane=name,
        ttft_s=median_of_known(timing.ttft_s for timing in timings),
        decode_tok_per_s=median_of_known(timing.decode_tok_per_s for timing in timings),
    )


def _lightest(lane: str, passes: Sequence[BenchPass]) -> set[int]:
    """The numbers of the lane's passes at its lightest load, all repeats."""
    loads = {each.number: _load(each) for each in passes if lane in each.lanes}
    least = min(loads.values(), default=None)
    return {number for number, load in loads.items() if load == least}


def _load(bench_pass: BenchPass) -> tuple[int, float]:
    return len(bench_pass.lanes), bench_pass.level.value


@dataclass(frozen=True, slots=True, kw_only=True)
class PassProgress:
    """Progress of a pass; None before there is any."""

    bench_pass: BenchPass
    answered: int
    failed: int
    ttft_s: float | None
    """p50 of the answered requests, as is `tpot_s`."""
    tpot_s: float | None
    system_tok_per_s: float | None
    """From the start of the pass to its last answer, all lanes together."""


def newest_pass(record: BenchRecord) -> PassProgress | None:
    """The pass that began last; None before the first one."""
    if not record.passes:
        return None
    newest = record.passes[-1]
    requests = (r for r in record.requests if r.pass_number == newest.number and not r.warmup)
    part = Part(newest, tuple(requests))
    return PassProgress(
        bench_pass=newest,
        answered=len(part.ok),
        failed=sum(request.failed for request in part.requests),
        ttft_s=median_of_known(timing.ttft_s for timing in part.timings),
        tpot_s=median_of_known(timing.tpot_s for timing in part.timings),
        system_tok_per_s=system_tok_per_s(DEFINITIONS[Tool.LMDYNO], part.timings, part.window_s, None)
        if part.timings
        else None,
    )


def finished_part(record: BenchRecord) -> BenchRecord:
    """The record without the pass under way: it changes only when a pass ends."""
    passes = tuple(each for each in record.passes if each.end_ns is not None)
    numbers = {each.number for each in passes}
    return replace(
        record, passes=passes, requests=tuple(r for r in record.requests if r.pass_number in numbers)
    )


_KEPT_REQUESTS = 200_000
"""Of all records in memory together; a request with 128 chunks takes about 5 kB."""
_KEPT_VALUES = 32

T = TypeVar("T")


class RunSource(Protocol):
    """The part of `core.store.runs.BenchRuns` that is read."""

    def run(self, run_id: str) -> BenchRun | None: ...
    def record(self, run_id: str) -> BenchRecord: ...
    def passes(self, run_id: str) -> tuple[BenchPass, ...]: ...
    def requests(self, run_id: str, *, after: int = -1) -> tuple[BenchRequest, ...]: ...


class RunRecords:
    """Thread-safe; reading raises StoreError."""

    def __init__(self, source: RunSource) -> None:
        self._source = source
        self._lock = threading.Lock()
        self._records: OrderedDict[str, BenchRecord] = OrderedDict()
        self._values: OrderedDict[tuple[object, ...], object] = OrderedDict()

    def record(self, run_id: str) -> BenchRecord:
        """The run as it stands now; raises StoreError (`no-such-run`)."""
        with self._lock:
            known = self._records.get(run_id)
        run = self._source.run(run_id)
        if known is None or run is None:
            record = self._source.record(run_id)
        elif known.run.state is not RunState.RUNNING:
            record = replace(known, run=run)  # note and tag may have changed
        else:
            record = self._grown(known, run)
        with self._lock:
            self._records[run_id] = record
            self._records.move_to_end(run_id)
            while len(self._records) > 1 and self._kept_requests() > _KEPT_REQUESTS:
                self._records.popitem(last=False)
        return record

    def result(self, record: BenchRecord, tool: Tool = Tool.LMDYNO) -> BenchResult:
        """Everything that is said about a record, with latencies as `tool` defines them."""
        result = self.derived(record, f"result/{tool}", lambda: results(record, tool))
        return replace(result, run=record.run)

    def derived(self, record: BenchRecord, name: str, make: Callable[[], T]) -> T:
        """The result of `make` for a record, cached while the record is unchanged.

        `name` says what it is, and with which options.
        """
        key = (*version(record), name)
        with self._lock:
            if key in self._values:
                self._values.move_to_end(key)
                return cast(T, self._values[key])  # the name stands for the type
        made = make()
        with self._lock:
            self._values[key] = made
            while len(self._values) > _KEPT_VALUES:
                self._values.popitem(last=False)
        return made

    def _grown(self, earlier: BenchRecord, run: BenchRun) -> BenchRecord:
        # The run was read first: if it is final, all of its requests are in the store by now.
        requests = {request.number: request for request in earlier.requests}
        complete = next((place for place in range(len(requests)) if place not in requests), len(requests))
        for request in self._source.requests(run.id, after=complete - 1):
            requests[request.number] = request
        return BenchRecord(
            run=run,
            passes=self._source.passes(run.id),
            requests=tuple(requests[number] for number in sorted(requests)),
        )

    def _kept_requests(self) -> int:
        return sum(len(record.requests) for record in self._records.values())


def version(record: BenchRecord) -> tuple[object, ...]:
    """The same for two records of a run only if they hold the same facts."""
    run, passes = record.run, record.passes
    return run.id, run.state, run.lanes, len(record.requests), len(passes), passes[-1] if passes else None
