"""A sweep as it is kept: facts of each point, errors of the prediction derived from them.

A run is a JSON file under `home/sweeps/`, written anew after every point, so that a sweep that was cancelled
keeps what it had; when it ends, it goes into the history.
"""

from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from core.domain.history import RunKind
from core.domain.turns import ErrorInfo, Machine, utc_now
from core.i18n import Text
from core.jobs.records import load_outcome, outcome_file, save_outcome
from core.memory.prediction import MemoryPart
from core.memory_sweep.plan import SweepPlan, SweepPoint
from core.settings import Settings
from core.store.run_tables import keep_run
from core.telemetry.samples import MemorySource


@dataclass(frozen=True, slots=True, kw_only=True)
class PointResult:
    """One point: what was predicted from the GPU's free memory, and what was measured."""

    point: SweepPoint
    free_before_bytes: int | None = None
    predicted_parts: tuple[MemoryPart, ...] = ()
    predicted_kv_bytes: int | None = None
    predicted_kv_tokens: int | None = None
    measured_bytes: int | None = None
    """The engine's GPU memory by NVML after a request."""
    measured_source: MemorySource | None = None
    used_delta_bytes: int | None = None
    """What the GPU's used memory grew by since before the start."""
    log_free_bytes: int | None = None
    """Free memory after the weights were loaded, by the engine's log."""
    log_kv_bytes: int | None = None
    log_kv_tokens: int | None = None
    log_block_bytes: int | None = None
    start_s: float | None = None
    decode_tok_per_s: float | None = None
    error: ErrorInfo | None = None
    """Why the point could not be measured; the sweep goes on."""

    @property
    def predicted_bytes(self) -> int | None:
        return sum(part.size_bytes for part in self.predicted_parts) if self.predicted_parts else None

    @property
    def total_error_ratio(self) -> float | None:
        """Predicted over measured memory, less 1."""
        return _error(self.predicted_bytes, self.measured_bytes)

    @property
    def kv_error_ratio(self) -> float | None:
        return _error(self.predicted_kv_bytes, self.log_kv_bytes)

    @property
    def tokens_error_ratio(self) -> float | None:
        return _error(self.predicted_kv_tokens, self.log_kv_tokens)


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepRun:
    """A sweep with the points measured so far."""

    plan: SweepPlan
    gpu_name: str
    gpu_total_bytes: int | None
    engine_version: str | None = None
    created_at: datetime = field(default_factory=utc_now)
    points: tuple[PointResult, ...] = ()
    machine: Machine | None = None
    schema_version: int = 1


def save(settings: Settings, run: SweepRun) -> None:
    """Write the run, in place of an earlier state of it, whole or not at all."""
    save_outcome(run_file(settings, run.plan.id), run)


def keep(settings: Settings, run: SweepRun, title: Text) -> None:
    """Put a run that ended into the history; one without any point leaves nothing. Raises StoreError."""
    if not run.points:
        return
    keep_run(
        settings.database_url,
        run,
        kind=RunKind.SWEEP,
        run_id=run.plan.id,
        created_at=run.created_at,
        is_whole=len(run.points) == len(run.plan.points),
        title=title,
        lanes=(run.plan.lane(run.points[0].point),),
        machine=run.machine,
    )


def load(settings: Settings, sweep_id: str) -> SweepRun | None:
    """The run so far; None before its first point. Raises InputError (`bad-record`)."""
    return load_outcome(SweepRun, run_file(settings, sweep_id))


def run_file(settings: Settings, sweep_id: str) -> Path:
    return outcome_file(settings.home / "sweeps", sweep_id, "sweep")


def _error(predicted: int | None, measured: int | None) -> float | None:
    return None if predicted is None or not measured else predicted / measured - 1
