"""From a window's statistics to the facts that one lane's request keeps of it. Pure functions."""

from collections.abc import Iterable, Sequence
from typing import TypeVar

from core.domain.turns import UsageWindow
from core.i18n import N_
from core.telemetry.window import GpuWindow, WindowStats

Number = TypeVar("Number", int, float)

NO_GPU = N_("Can't read the engine's GPUs.")


def usage_of(stats: WindowStats, lane: str, gpus: Sequence[int]) -> UsageWindow:
    """What the window says of a lane whose engine is on the GPUs with these indices (none: on the CPU)."""
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
