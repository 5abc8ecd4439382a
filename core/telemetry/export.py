"""Samples as a CSV table: a row for each GPU and each engine of every sample, in bytes, seconds and watts."""

from collections.abc import Callable, Iterator, Sequence
from datetime import datetime

from core import csv_text
from core.telemetry.samples import EngineReading, Sample

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


def to_csv(samples: Sequence[Sample], wall: Callable[[int], datetime]) -> str:
    """What could not be read is an empty field. `wall` turns a sample's timestamp into a time of day."""
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
