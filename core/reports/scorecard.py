"""The scorecard of a model: a row for each of its lanes, compared with the baseline, and a verdict.

A row has the figures of the newest benchmark run, and of the newest quality run, that measured the lane as it
is now: same settings, engine version and machine. A run with the baseline's workload is preferred, since only
those can be compared.

The verdict is one or two sentences made from these figures. A sentence says that a lane is faster or slower
only if the 95 % interval, as it is printed, leaves out 1.

`ScorecardReader` makes it from a store, and keeps what was computed once.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import lru_cache
from typing import Protocol, TypeVar

from core import units
from core.bench.plan import BenchPlan, Workload
from core.bench.results.result import RunRecords
from core.bench.statistics import Ratio
from core.codec import decode
from core.domain.runs import MeasuredLane, QualityRecord
from core.domain.specs import EngineKind, EngineSettings, LaneSpec, Patience, Weights
from core.domain.turns import Machine
from core.errors import InputError
from core.i18n import N_, Text
from core.reports.lane_figures import (
    Counted,
    LaneQualityFigure,
    LaneSpeed,
    comparable,
    decode_ratio,
    lane_speed,
    quality_figures,
    throughput_ratio,
    ttft_ratio,
)
from core.telemetry.nvml import describe_machine

_MOST_READ = 3
"""Runs of a lane, until one has figures of it."""
_KEPT = 64
"""Lanes of runs."""
Key = TypeVar("Key")
Value = TypeVar("Value")


class Staleness(StrEnum):
    """The reason why there is no measurement of a lane as it is now."""

    NEVER_MEASURED = "never-measured"
    OTHER_SETTINGS = "other-settings"
    OTHER_ENGINE_VERSION = "other-engine-version"
    OTHER_MACHINE = "other-machine"


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneNow:
    """A lane as it is now."""

    lane: LaneSpec
    engine_version: str | None
    """None while its engine doesn't run: then any version is taken for its own."""
    machine: Machine


def staleness(now: LaneNow, measured: MeasuredLane) -> Staleness | None:
    """Return what is different since a measurement; None if nothing is that makes a difference."""
    if _configuration(now.lane) != _configuration(measured.lane):
        return Staleness.OTHER_SETTINGS
    if measured.machine is None or _fingerprint(now.machine) != _fingerprint(measured.machine):
        return Staleness.OTHER_MACHINE
    versions = (now.engine_version, measured.engine_version)
    if None not in versions and versions[0] != versions[1]:
        return Staleness.OTHER_ENGINE_VERSION
    return None


def _configuration(lane: LaneSpec) -> LaneSpec:
    """The lane without its patience: how long a request or a start may take changes no figure."""
    settings = replace(lane.settings, start_timeout_s=EngineSettings().start_timeout_s)
    return replace(lane, settings=settings, patience=Patience())


def _fingerprint(machine: Machine) -> tuple[object, ...]:
    """Return what figures depend on; the kernel's and Python's versions change too often to say much."""
    return (machine.host, machine.cpu, machine.cores, machine.memory_bytes, machine.gpus, machine.driver)


@dataclass(frozen=True, slots=True)
class Gap:
    """The reason why a lane has no figures, and the newest run that it had some in."""

    reason: Staleness
    last: MeasuredLane | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Ratios:
    """A lane by the baseline; None where they can't be compared."""

    ttft: Ratio | None = None
    decode: Ratio | None = None
    throughput: Ratio | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    now: LaneNow
    speed: LaneSpeed | None = None
    speed_gap: Gap | None = None
    """Set exactly where `speed` is None."""
    quality: LaneQualityFigure | None = None
    quality_gap: Gap | None = None
    """Set exactly where `quality` is None."""
    ratios: Ratios = field(default_factory=Ratios)

    @property
    def name(self) -> str:
        return self.now.lane.name


@dataclass(frozen=True, slots=True, kw_only=True)
class Scorecard:
    """All rows, in the lanes' order."""

    baseline: str
    rows: tuple[Row, ...]
    best: Mapping[str, str]
    """The lane that is best by a figure of `FIGURES`; without figures that fewer than two comparable lanes
    have, and without a tie."""

    def row(self, name: str) -> Row | None:
        return next((row for row in self.rows if row.name == name), None)

    @property
    def unmeasured(self) -> tuple[str, ...]:
        """Lanes without the figures of a benchmark."""
        return tuple(row.name for row in self.rows if row.speed is None)

    @property
    def without_quality(self) -> tuple[str, ...]:
        return tuple(row.name for row in self.rows if row.quality is None)


FIGURES: Mapping[str, Callable[[LaneSpeed], Counted | None]] = {
    "ttft_p50_s": lambda speed: speed.ttft_p50_s,
    "decode_p50_tok_per_s": lambda speed: speed.decode_p50_tok_per_s,
    "system_tok_per_s": lambda speed: speed.system_tok_per_s,
    "peak_memory_bytes": lambda speed: speed.peak_memory_bytes,
    "energy_j_per_token": lambda speed: speed.energy_j_per_token,
}
"""The figures of a row by their names."""

MORE_IS_BETTER = frozenset({"decode_p50_tok_per_s", "system_tok_per_s"})


Figures = TypeVar("Figures", LaneSpeed, LaneQualityFigure)


def scorecard(
    lanes: Sequence[LaneNow],
    baseline: str,
    *,
    benched: Sequence[MeasuredLane],
    assessed: Sequence[MeasuredLane],
    speed_of: Callable[[MeasuredLane], LaneSpeed | None],
    quality_of: Callable[[MeasuredLane], LaneQualityFigure | None],
) -> Scorecard:
    """The scorecard of these lanes.

    Args:
        lanes: as they are now; one of them is the baseline.
        baseline: its name.
        benched: the lanes of benchmark runs, the newest first.
        assessed: the same of quality runs.
        speed_of: reads what a run says of a lane; asked for few runs only.
        quality_of: the same of a quality run.
    """
    by_name = {lane.lane.name: lane for lane in lanes}
    base_speed, base_gap = _newest(by_name[baseline], benched, speed_of)
    rows = []
    for now in lanes:
        if now.lane.name == baseline:
            speed, gap = base_speed, base_gap
        else:
            speed, gap = _newest(now, benched, speed_of, like=base_speed)
        quality, quality_gap = _newest(now, assessed, quality_of)
        rows.append(
            Row(
                now=now,
                speed=speed,
                speed_gap=gap,
                quality=quality,
                quality_gap=quality_gap,
                ratios=_ratios(speed, base_speed) if now.lane.name != baseline else Ratios(),
            )
        )
    return Scorecard(baseline=baseline, rows=tuple(rows), best=_best(rows))


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
        """The scorecard of these lanes as they are now.

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
        figures = quality_figures(self._quality_runs.record(run.run_id))
        with self._lock:
            for lane, figure in figures.items():
                _keep(self._qualities, (run.run_id, lane), figure)
        return figures.get(run.lane.name)


def _keep(cache: OrderedDict[Key, Value], key: Key, value: Value) -> None:
    cache[key] = value
    while len(cache) > _KEPT:
        cache.popitem(last=False)


def _newest(
    now: LaneNow,
    measured: Sequence[MeasuredLane],
    read: Callable[[MeasuredLane], Figures | None],
    *,
    like: LaneSpeed | None = None,
) -> tuple[Figures | None, Gap | None]:
    """The figures of the newest run of the lane as it is now, rather one that can be compared with `like`."""
    own = [run for run in measured if run.lane.name == now.lane.name]
    fresh = [run for run in own if staleness(now, run) is None]
    if like is not None:
        fresh.sort(key=lambda run: _distance(run, like))
    for run in fresh[:_MOST_READ]:
        if (figures := read(run)) is not None:
            return figures, None
    if not own:
        return None, Gap(Staleness.NEVER_MEASURED)
    return None, Gap(staleness(now, own[0]) or Staleness.NEVER_MEASURED, own[0])


def _distance(run: MeasuredLane, like: LaneSpeed) -> int:
    """Return how far a run is from being comparable: 0 for the same one, 1 for one with the same workload."""
    if run.run_id == like.run_id:
        return 0
    return 1 if _workload(run.plan) == like.workload else 2


@lru_cache(maxsize=256)
def _workload(plan: str) -> Workload | None:
    try:
        return decode(BenchPlan, plan).workload
    except InputError:  # of a later version
        return None


def _ratios(speed: LaneSpeed | None, baseline: LaneSpeed | None) -> Ratios:
    if speed is None or baseline is None:
        return Ratios()
    return Ratios(
        ttft=ttft_ratio(speed, baseline),
        decode=decode_ratio(speed, baseline),
        throughput=throughput_ratio(speed, baseline),
    )


def _best(rows: Sequence[Row]) -> dict[str, str]:
    """Among the lanes that can be compared with the first one that was measured."""
    speeds = [row.speed for row in rows if row.speed]
    alike = [speed for speed in speeds if comparable(speed, speeds[0])]
    best = {}
    for name, figure in FIGURES.items():
        known = {speed.lane: counted.value for speed in alike if (counted := figure(speed))}
        if name == "peak_memory_bytes" and len({speed.memory_is_gpu for speed in alike}) > 1:
            continue
        if name == "system_tok_per_s" and len({speed.load for speed in alike}) > 1:
            continue
        if len(known) < 2:
            continue
        value = (max if name in MORE_IS_BETTER else min)(known.values())
        winners = [lane for lane, own in known.items() if own == value]
        if len(winners) == 1 and _is_supported(name, winners[0], alike):
            best[name] = winners[0]
    return best


def _is_supported(name: str, winner: str, speeds: Sequence[LaneSpeed]) -> bool:
    """For figures with intervals: whether the winner is clearly ahead of every other lane."""
    if name not in ("ttft_p50_s", "decode_p50_tok_per_s"):
        return True
    own = next(speed for speed in speeds if speed.lane == winner)
    others = [speed for speed in speeds if speed.lane != winner]
    if name == "ttft_p50_s":
        return all(_is_below_1(ttft_ratio(own, other)) for other in others)
    return all(_is_below_1(decode_ratio(other, own)) for other in others)


def _is_below_1(ratio: Ratio | None) -> bool:
    return ratio is not None and ratio.interval is not None and ratio.interval.high < 1


_MOST_SENTENCES = 2
_TENFOLD = 10


def verdict(card: Scorecard) -> tuple[Text, ...]:
    """One or two sentences; none before two lanes were measured."""
    speeds = [row.speed for row in card.rows if row.speed]
    if len(speeds) < 2:
        return ()
    sentences = [*_claims(card), *_open_questions(card)]
    if not sentences:
        return (_NOT_COMPARABLE,)
    return tuple(sentences[:_MOST_SENTENCES])


def is_claim(ratio: Ratio | None) -> bool:
    """Whether the interval supports a difference, and still does so when it is printed."""
    if ratio is None or ratio.interval is None or not ratio.is_clear:
        return False
    low, high = (float(ratio_number(edge)) for edge in (ratio.interval.low, ratio.interval.high))
    return not low <= 1 <= high


def ratio_number(value: float) -> str:
    """`0.764` → "0.76", `12.13` → "12.1"."""
    return f"{value:.1f}" if value >= _TENFOLD else f"{value:.2f}"


def interval_text(ratio: Ratio) -> str:
    """`11.8–12.4`; unknown where there is none."""
    if ratio.interval is None:
        return units.UNKNOWN
    return f"{ratio_number(ratio.interval.low)}–{ratio_number(ratio.interval.high)}"


_NOT_COMPARABLE = N_(
    "The lanes were measured with different prompts or loads, so they can't be compared. Measure them in "
    "one run."
)


def _claims(card: Scorecard) -> Iterator[Text]:
    """The lane that is furthest from the baseline first; then what 4-bit weights bring beside TurboMind."""
    differing = [row for row in card.rows if is_claim(row.ratios.decode)]
    differing.sort(key=lambda row: row.ratios.decode.value if row.ratios.decode else 0.0, reverse=True)
    decodes = [_decodes(card, row) for row in differing]
    yield from decodes[:1]
    for row in card.rows:
        plain = _in_16_bits(card, row)
        if plain is not None and plain.name != card.baseline:
            yield from _four_bit_weights(row, plain)
    yield from decodes[1:]


def _decodes(card: Scorecard, row: Row) -> Text:
    """Return how fast the lane is by the baseline; with its weights if they are the baseline's in 4 bits."""
    plain = _in_16_bits(card, row)
    if plain is not None and plain.name == card.baseline:
        with_weights = next(_four_bit_weights(row, plain), None)
        if with_weights is not None:
            return with_weights
    ratio = row.ratios.decode
    assert ratio is not None
    return N_(
        "{lane} decodes {ratio} times as fast as {baseline} ({interval}, n = {n}).",
        lane=row.name,
        ratio=ratio_number(ratio.value),
        baseline=card.baseline,
        interval=interval_text(ratio),
        n=ratio.n,
    )


def _four_bit_weights(row: Row, plain: Row) -> Iterator[Text]:
    """A W4A16 lane beside the same model in 16 bits on TurboMind; nothing that can't be claimed."""
    if row.speed is None or plain.speed is None:
        return
    share = _weights_ratio(row.speed, plain.speed)
    ratio = decode_ratio(row.speed, plain.speed)
    if share is None or ratio is None or not is_claim(ratio):
        return
    yield N_(
        "{lane}'s weights take {share} of the space of {other}'s, and it decodes {ratio} times as fast "
        "({interval}, n = {n}).",
        lane=row.name,
        share=units.share(share),
        other=plain.name,
        ratio=ratio_number(ratio.value),
        interval=interval_text(ratio),
        n=ratio.n,
    )


def _in_16_bits(card: Scorecard, row: Row) -> Row | None:
    """The TurboMind lane with the weights that this W4A16 lane's were made of."""
    lane = row.now.lane
    if lane.weights is not Weights.AWQ:
        return None
    return next(
        (
            other
            for other in card.rows
            if other.now.lane.kind is EngineKind.TURBOMIND and other.now.lane.model == lane.model
        ),
        None,
    )


def _weights_ratio(lane: LaneSpeed, other: LaneSpeed) -> float | None:
    if lane.weight_bytes is None or not other.weight_bytes:
        return None
    return lane.weight_bytes / other.weight_bytes


def _open_questions(card: Scorecard) -> Iterator[Text]:
    """Lanes whose difference the measurement doesn't show."""
    for row in card.rows:
        ratio = row.ratios.decode
        if ratio is None or is_claim(ratio):
            continue
        values = {"lane": row.name, "baseline": card.baseline, "n": ratio.n}
        if ratio.interval is None:
            yield N_(
                "{lane} and {baseline} are not decided: with n = {n} there is no interval. Measure more "
                "requests.",
                **values,
            )
        else:
            yield N_(
                "{lane} and {baseline} show no clear difference in decode speed ({interval}, n = {n}).",
                interval=interval_text(ratio),
                **values,
            )
