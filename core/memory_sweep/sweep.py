"""A memory sweep: its plan, and the run as it is kept.

The plan is one model, loaded again and again with another KV cache each time. A run has the facts of each
point; errors of the prediction are derived from them. It is a JSON file under `home/sweeps/`, written anew
after every point, so that a sweep that was cancelled keeps what it had; when it ends, it goes into the
history.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from itertools import product
from pathlib import Path

from core.domain.runs import RunKind
from core.domain.specs import EngineKind, EngineSettings, LaneSpec, ModelSpec, Weights
from core.domain.turns import ErrorInfo, Machine, new_id, utc_now
from core.errors import InputError
from core.i18n import N_, Text
from core.jobs.registry import load_outcome, outcome_file, save_outcome
from core.memory.prediction import KV_BITS, MemoryPart
from core.settings import Settings
from core.store.run_tables import keep_run
from core.telemetry.samples import MemorySource

LANE = "sweep"
"""The name under which every engine of a sweep runs."""
DEFAULT_RATIOS = (0.8, 0.6, 0.4, 0.2, 0.05)
_MOST_POINTS = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepPoint:
    """One start of the engine."""

    ratio: float
    kv_bits: int = 16
    awq: bool = False

    @property
    def label(self) -> str:
        """`0.4 · KV 8-bit · AWQ`."""
        return f"{self.ratio:g} · KV {self.kv_bits}-bit" + (" · AWQ" if self.awq else "")


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepPlan:
    """All points of a sweep, in the order in which they are measured, and what they share."""

    model: ModelSpec
    points: tuple[SweepPoint, ...]
    gpu: int = 0
    session_len: int = 4096
    max_batch_size: int = 64
    max_tokens: int = 64
    """Tokens of the request that is sent at each point."""
    python: str | None = None
    """The engines' own Python interpreter; None is the one that runs LMDyno."""
    id: str = field(default_factory=new_id)

    def __post_init__(self) -> None:
        if not 1 <= len(self.points) <= _MOST_POINTS:
            raise InputError(
                N_("A sweep can't have {n} points.", n=len(self.points)),
                hint=N_("Choose 1 to {most}. Each point takes about 30 s.", most=_MOST_POINTS),
            )
        for point in self.points:
            if not 0 < point.ratio < 1:
                raise InputError(
                    N_("{value} is not a valid KV cache ratio.", value=f"{point.ratio:g}"),
                    hint=N_("Choose ratios greater than 0 and less than 1."),
                )
            if point.kv_bits not in KV_BITS:
                raise InputError(
                    N_("The KV cache can't have {bits} bits.", bits=point.kv_bits),
                    hint=N_("Choose 16, 8, or 4."),
                )

    def lane(self, point: SweepPoint) -> LaneSpec:
        """The lane that the point's engine serves."""
        return LaneSpec(
            name=LANE,
            kind=EngineKind.AWQ if point.awq else EngineKind.TURBOMIND,
            model=self.model,
            weights=Weights.AWQ if point.awq else Weights.CHECKPOINT,
            settings=EngineSettings(
                dtype="float16",
                devices=(self.gpu,),
                python=self.python,
                session_len=self.session_len,
                max_batch_size=self.max_batch_size,
                cache_max_entry_count=point.ratio,
                quant_policy=0 if point.kv_bits == 16 else point.kv_bits,
            ),
        )


def grid(
    ratios: Iterable[float] = DEFAULT_RATIOS, kv_bits: Iterable[int] = (16,), awq: Iterable[bool] = (False,)
) -> tuple[SweepPoint, ...]:
    """Every combination, the ratios of one form after each other."""
    return tuple(
        SweepPoint(ratio=ratio, kv_bits=bits, awq=form) for form, bits, ratio in product(awq, kv_bits, ratios)
    )


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
