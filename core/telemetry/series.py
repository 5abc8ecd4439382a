"""A series of samples: statistics between two timestamps, lines for a chart, and a CSV table.

Energy is the change of NVML's counter, read off between the samples around each timestamp. It belongs to the
whole board and everything that ran on it; the power that the board draws when idle stands beside it,
unsubtracted. `usage_of` reduces a window to what one lane's request keeps of it.

Lines are thinned out so that a browser can draw them; the table has all samples. A moment without samples is
None in every line: a gap, never a zero.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from statistics import fmean, median
from typing import TypeVar

from core import codec
from core.domain.turns import UsageWindow
from core.i18n import N_, Text
from core.telemetry.samples import EngineReading, GpuReading, MemorySource, Sample

Number = TypeVar("Number", int, float)

_NS = 1e-9
_MAX_GAP_S = 2.5
"""Between samples further apart than this nothing is read off: idle sampling is once a second."""
_IDLE_SAMPLES = 30
"""Idle power is the median of up to this many idle samples, the last ones before the window."""
NO_GPU = N_("Can't read the engine's GPUs.")

MAX_POINTS = 400
_MAX_GAP_NS = int(2.5e9)
"""Idle sampling is once a second; where samples are further apart, something was not measured."""
COLUMNS = (
    "time",
    "what",
    "name",
    "gpu",
    "used_bytes",
    "free_bytes",
    "total_bytes",
    "utilisation_ratio",
    "power_w",
    "energy_j",
    "temperature_c",
    "sm_clock_hz",
    "throttle_reasons",
    "resident_bytes",
    "cpu_ratio",
    "source",
)
Row = dict[str, object]


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuWindow:
    """One GPU during a window; None where it could not be measured, with the reason in `energy_gap`."""

    index: int
    name: str
    board: int
    peak_used_bytes: int | None
    mean_utilisation_ratio: float | None
    mean_power_w: float | None
    """Mean of the power readings, which many GPUs average over a second: energy is the better measure."""
    energy_j: float | None
    energy_gap: Text | None
    idle_power_w: float | None
    """Median power while no engine was busy and no kernel ran, shortly before the window."""
    peak_temperature_c: float | None
    throttle_reasons: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineWindow:
    """One engine during a window."""

    name: str
    was_busy: bool
    peak_gpu_bytes: int | None
    """The largest sum over all its GPUs."""
    source: MemorySource | None
    """`difference` if any part of the sum was found that way."""
    peak_resident_bytes: int | None
    mean_cpu_ratio: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowStats:
    """The statistics of a stretch of time; timestamps are perf_counter_ns."""

    start_ns: int
    end_ns: int
    samples: int
    """Samples inside the window; the energy also uses the ones around it."""
    gpus: tuple[GpuWindow, ...]
    engines: tuple[EngineWindow, ...]

    @property
    def duration_s(self) -> float:
        return (self.end_ns - self.start_ns) * _NS

    @property
    def busy_engines(self) -> tuple[str, ...]:
        """Who was at work in the window; with more than one its energy and utilisation are shared."""
        return tuple(engine.name for engine in self.engines if engine.was_busy)


def window_stats(samples: Sequence[Sample], start_ns: int, end_ns: int) -> WindowStats:
    """Statistics of `[start_ns, end_ns]` over samples in the order of time."""
    inside = [sample for sample in samples if start_ns <= sample.at_ns <= end_ns]
    around = (*_last_before(samples, start_ns), *inside)
    gpus = {reading.index: reading for sample in around for reading in sample.gpus}
    names = dict.fromkeys(engine.name for sample in inside for engine in sample.engines)
    return WindowStats(
        start_ns=start_ns,
        end_ns=end_ns,
        samples=len(inside),
        gpus=tuple(_gpu_window(samples, inside, gpu, start_ns, end_ns) for gpu in gpus.values()),
        engines=tuple(_engine_window(inside, name) for name in names),
    )


def _last_before(samples: Sequence[Sample], at_ns: int) -> Sequence[Sample]:
    return [sample for sample in samples if sample.at_ns < at_ns][-1:]


def _gpu_window(
    samples: Sequence[Sample], inside: Sequence[Sample], gpu: GpuReading, start_ns: int, end_ns: int
) -> GpuWindow:
    readings = [reading for sample in inside if (reading := sample.gpu(gpu.index))]
    energy = _energy(samples, gpu.index, start_ns, end_ns)
    return GpuWindow(
        index=gpu.index,
        name=gpu.name,
        board=gpu.board,
        peak_used_bytes=_peak(reading.used_bytes for reading in readings),
        mean_utilisation_ratio=_mean(reading.utilisation_ratio for reading in readings),
        mean_power_w=_mean(reading.power_w for reading in readings),
        energy_j=energy if isinstance(energy, float) else None,
        energy_gap=energy if isinstance(energy, str) else None,
        idle_power_w=_idle_power(samples, gpu.index, start_ns),
        peak_temperature_c=_peak(reading.temperature_c for reading in readings),
        throttle_reasons=tuple(
            dict.fromkeys(reason for reading in readings for reason in reading.throttle_reasons or ())
        ),
    )


def _engine_window(inside: Sequence[Sample], name: str) -> EngineWindow:
    readings = [engine for sample in inside for engine in sample.engines if engine.name == name]
    totals = [
        (sum(share.used_bytes or 0 for share in engine.gpu_memory), engine.gpu_memory)
        for engine in readings
        if engine.gpu_memory and all(share.used_bytes is not None for share in engine.gpu_memory)
    ]
    peak_bytes, shares = max(totals, key=lambda total: total[0], default=(None, ()))
    sources = {share.source for share in shares}
    return EngineWindow(
        name=name,
        was_busy=any(engine.busy for engine in readings),
        peak_gpu_bytes=peak_bytes,
        source=MemorySource.DIFFERENCE if MemorySource.DIFFERENCE in sources else next(iter(sources), None),
        peak_resident_bytes=_peak(engine.resident_bytes for engine in readings),
        mean_cpu_ratio=_mean(engine.cpu_ratio for engine in readings),
    )


def _energy(samples: Sequence[Sample], gpu: int, start_ns: int, end_ns: int) -> float | str:
    """Joules between the timestamps, or why they can't be told."""
    readings = [(sample.at_ns, reading) for sample in samples if (reading := sample.gpu(gpu))]
    counter = [(at, reading.energy_j) for at, reading in readings if reading.energy_j is not None]
    if not counter:
        reasons = (reading.reason("energy_j") for _, reading in readings)
        return next((reason for reason in reasons if reason), N_("There are no samples."))
    start, end = _read_off(counter, start_ns), _read_off(counter, end_ns)
    if start is None or end is None:
        return N_("The samples don't cover the whole time.")
    within = [start, *(joules for at, joules in counter if start_ns < at < end_ns), end]
    if any(later < earlier for earlier, later in pairwise(within)):
        return N_("The energy counter was reset meanwhile.")
    if end == start:
        # A GPU always draws power, but the driver updates the counter only several times per second.
        return N_("The energy counter wasn't updated meanwhile.")
    return end - start


def _read_off(counter: Sequence[tuple[int, float]], at_ns: int) -> float | None:
    """The counter at a timestamp, on the line between the samples around it."""
    before = [point for point in counter if point[0] <= at_ns]
    after = [point for point in counter if point[0] >= at_ns]
    if not before or not after:
        return None
    (left_ns, left), (right_ns, right) = before[-1], after[0]
    if left_ns == right_ns:
        return left
    if (right_ns - left_ns) * _NS > _MAX_GAP_S:
        return None
    return left + (right - left) * (at_ns - left_ns) / (right_ns - left_ns)


def _idle_power(samples: Sequence[Sample], gpu: int, start_ns: int) -> float | None:
    idle = [
        reading.power_w
        for sample in samples
        if sample.at_ns < start_ns and not sample.busy and (reading := sample.gpu(gpu))
        if reading.power_w is not None and not reading.utilisation_ratio
    ]
    return median(idle[-_IDLE_SAMPLES:]) if idle else None


def _peak(values: Iterable[Number | None]) -> Number | None:
    return max((value for value in values if value is not None), default=None)


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


def usage_of(stats: WindowStats, lane: str, gpus: Sequence[int]) -> UsageWindow:
    """Return what the window says of a lane whose engine is on the GPUs with these indices (none: on the
    CPU).
    """
    engine = next((engine for engine in stats.engines if engine.name == lane), None)
    here = [gpu for gpu in stats.gpus if gpu.index in gpus]
    # MIG instances of one board share its sensors, so each board counts once.
    boards = list({gpu.board: gpu for gpu in here}.values())
    return UsageWindow(
        duration_s=stats.duration_s,
        energy_j=_sum(gpu.energy_j for gpu in boards),
        energy_gap=_gap(boards) if gpus else None,
        mean_power_w=_sum(gpu.mean_power_w for gpu in boards),
        idle_power_w=_sum(gpu.idle_power_w for gpu in boards),
        peak_used_bytes=_sum(gpu.peak_used_bytes for gpu in here),
        peak_gpu_bytes=engine.peak_gpu_bytes if engine else None,
        peak_resident_bytes=engine.peak_resident_bytes if engine else None,
        mean_cpu_ratio=engine.mean_cpu_ratio if engine else None,
        others=tuple(name for name in stats.busy_engines if name != lane),
    )


def _gap(boards: Sequence[GpuWindow]) -> str | None:
    if not boards:
        return NO_GPU
    return next((board.energy_gap for board in boards if board.energy_gap), None)


def _sum(values: Iterable[Number | None]) -> Number | None:
    """All together; None if any is unknown, or there is none."""
    given = list(values)
    known = [value for value in given if value is not None]
    return sum(known) if known and len(known) == len(given) else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Lines:
    """One value for each of `at_ns` in every line; `others_bytes` is what no engine holds."""

    at_ns: tuple[int, ...]
    engine_bytes: dict[str, tuple[int | None, ...]]
    """0 while the engine does not run."""
    others_bytes: tuple[int | None, ...] = ()
    total_bytes: int | None = None
    utilisation_ratio: tuple[float | None, ...] = ()
    power_w: tuple[float | None, ...] = ()
    temperature_c: tuple[float | None, ...] = ()
    engine_cpu_ratio: dict[str, tuple[float | None, ...]]


def gpu_lines(samples: Sequence[Sample], gpu: int, *, points: int = MAX_POINTS) -> Lines:
    """One GPU's memory by engine, its load, power and temperature."""
    groups = _groups(samples, points)
    readings = [[reading for sample in group if (reading := sample.gpu(gpu))] for group in groups]
    fullest = [_fullest(group, lambda sample: _used(sample, gpu)) for group in groups]
    names = _names(samples)
    engines = {
        name: tuple(None if peak is None else _engine_bytes(peak, name, gpu) for peak in fullest)
        for name in names
    }
    return Lines(
        at_ns=_timestamps(groups),
        engine_bytes=engines,
        others_bytes=tuple(
            None if peak is None else _others(peak, gpu, [engines[name][place] or 0 for name in names])
            for place, peak in enumerate(fullest)
        ),
        total_bytes=next((r.total_bytes for group in reversed(readings) for r in group), None),
        utilisation_ratio=tuple(_mean([r.utilisation_ratio for r in group]) for group in readings),
        power_w=tuple(_mean([r.power_w for r in group]) for group in readings),
        temperature_c=tuple(_mean([r.temperature_c for r in group]) for group in readings),
        engine_cpu_ratio={},
    )


def host_lines(samples: Sequence[Sample], *, points: int = MAX_POINTS) -> Lines:
    """Resident memory and CPU share of each engine's process tree."""
    groups = _groups(samples, points)
    fullest = [_fullest(group, _resident) for group in groups]
    names = _names(samples)
    return Lines(
        at_ns=_timestamps(groups),
        engine_bytes={
            name: tuple(None if peak is None else _resident_of(peak, name) for peak in fullest)
            for name in names
        },
        engine_cpu_ratio={name: tuple(_mean(_cpu_of(group, name)) for group in groups) for name in names},
    )


def _groups(samples: Sequence[Sample], points: int) -> list[list[Sample]]:
    """Samples that share a point of the chart; an empty group stands for a gap in time."""
    if not samples:
        return []
    span = samples[-1].at_ns - samples[0].at_ns
    width = max(1, span // points)
    groups: list[list[Sample]] = [[samples[0]]]
    # Counted from the clock's zero, not from the first sample: otherwise points would jump at each redraw.
    for sample in samples[1:]:
        previous = groups[-1][-1]
        if sample.at_ns - previous.at_ns > _MAX_GAP_NS:
            groups += [[], [sample]]
        elif sample.at_ns // width == previous.at_ns // width:
            groups[-1].append(sample)
        else:
            groups.append([sample])
    return groups


def _timestamps(groups: Sequence[Sequence[Sample]]) -> tuple[int, ...]:
    timestamps: list[int] = []
    for group in groups:
        timestamps.append(group[-1].at_ns if group else timestamps[-1] + 1)
    return tuple(timestamps)


def _fullest(group: Sequence[Sample], size: Callable[[Sample], int | None]) -> Sample | None:
    """The sample with the most memory: a chart of fewer points must not lose a peak."""
    sized = [(value, sample) for sample in group if (value := size(sample)) is not None]
    return max(sized, key=lambda pair: pair[0], default=(0, None))[1]


def _used(sample: Sample, gpu: int) -> int | None:
    reading = sample.gpu(gpu)
    return reading.used_bytes if reading else None


def _others(sample: Sample, gpu: int, engine_bytes: Sequence[int]) -> int | None:
    used = _used(sample, gpu)
    return None if used is None else max(0, used - sum(engine_bytes))


def _engine_bytes(sample: Sample, name: str, gpu: int) -> int:
    return next((engine.gpu_bytes(gpu) or 0 for engine in sample.engines if engine.name == name), 0)


def _resident(sample: Sample) -> int | None:
    return sum(engine.resident_bytes or 0 for engine in sample.engines)


def _resident_of(sample: Sample, name: str) -> int:
    return next((engine.resident_bytes or 0 for engine in sample.engines if engine.name == name), 0)


def _cpu_of(group: Sequence[Sample], name: str) -> list[float | None]:
    return [engine.cpu_ratio for sample in group for engine in sample.engines if engine.name == name]


def _names(samples: Sequence[Sample]) -> list[str]:
    return sorted({engine.name for sample in samples for engine in sample.engines})


def to_csv(samples: Sequence[Sample], wall: Callable[[int], datetime]) -> str:
    """A row for each GPU and each engine of every sample, in bytes, seconds and watts.

    What could not be read is an empty field. `wall` turns a sample's timestamp into a time of day.
    """
    return codec.to_csv(
        COLUMNS,
        (
            {"time": wall(sample.at_ns).isoformat(timespec="milliseconds"), **row}
            for sample in samples
            for row in _rows(sample)
        ),
    )


def _rows(sample: Sample) -> Iterator[Row]:
    for gpu in sample.gpus:
        yield {
            "what": "gpu",
            "name": gpu.name,
            "gpu": gpu.index,
            "used_bytes": gpu.used_bytes,
            "free_bytes": gpu.free_bytes,
            "total_bytes": gpu.total_bytes,
            "utilisation_ratio": gpu.utilisation_ratio,
            "power_w": gpu.power_w,
            "energy_j": gpu.energy_j,
            "temperature_c": gpu.temperature_c,
            "sm_clock_hz": gpu.sm_clock_hz,
            "throttle_reasons": ", ".join(gpu.throttle_reasons or ()),
            "source": "NVML",
        }
    for engine in sample.engines:
        yield from _engine_rows(engine)


def _engine_rows(engine: EngineReading) -> Iterator[Row]:
    host: Row = {
        "what": "engine",
        "name": engine.name,
        "resident_bytes": engine.resident_bytes,
        "cpu_ratio": engine.cpu_ratio,
    }
    if not engine.gpu_memory:
        yield {**host, "source": "process tree"}
    for share in engine.gpu_memory:
        source = share.source or share.reason
        yield {**host, "gpu": share.gpu, "used_bytes": share.used_bytes, "source": source}
