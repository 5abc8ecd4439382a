"""Samples for a chart, thinned out so that a browser can draw them, and as a CSV table with all of them.

A moment without samples is None in every line: a gap, never a zero.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from statistics import fmean

from core import csv_text
from core.telemetry.samples import EngineReading, Sample

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


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


def to_csv(samples: Sequence[Sample], wall: Callable[[int], datetime]) -> str:
    """A row for each GPU and each engine of every sample, in bytes, seconds and watts.

    What could not be read is an empty field. `wall` turns a sample's timestamp into a time of day.
    """
    return csv_text.to_csv(
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
