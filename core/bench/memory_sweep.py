"""A memory sweep: its plan, how it is measured point by point, the run as it is kept, and its background job.

The plan is one model, loaded again and again with another KV cache each time. For each point the engine is
started, sent a request through the meter's own code, its memory read, and stopped. One failing point is that
point's result. A run has the facts of each point; errors of the prediction are derived from them. It is a
JSON file under `home/sweeps/`, written anew after every point, so that a sweep that was cancelled keeps what
it had; when it ends, it goes into the history.

A sweep and its job have the same id. `python -m core.bench.memory_sweep FOLDER FD` is the worker, started by
`core.jobs`: it measures the plan, or has a node of the cluster measure it and keeps what that reports.
"""

import asyncio
import json
import signal
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

from core.cluster.jobs import follow
from core.cluster.protocol import NodeJob
from core.codec import decode, encode
from core.domain.conversation import Sampling, messages_for
from core.domain.runs import RunKind
from core.domain.specs import EngineKind, EngineSettings, LaneSpec, ModelSpec, Weights
from core.domain.turns import ErrorInfo, Machine, RequestPlan, TurnPlan, new_id, utc_now
from core.engines.launch.table import LAUNCH_TABLE, LaunchRow, model_path
from core.engines.manager import EngineManager
from core.engines.registry import lease
from core.engines.requests import StoppedRequests
from core.engines.resolve import find_endpoint
from core.engines.status import EngineWatch
from core.errors import InputError, LMDynoError, TelemetryUnavailable
from core.i18n import N_, N_plural, Text
from core.jobs.registry import Jobs, JobSpec, load_outcome, outcome_file, save_outcome
from core.jobs.worker import Report, run
from core.memory.model_sizes import checkpoint_sizes
from core.memory.prediction import KV_BITS, MemoryPart, MemorySettings, predict
from core.meter.turns import run_turn
from core.models.checkpoint import read_checkpoint
from core.settings import Settings, load_settings
from core.store.run_tables import keep_run
from core.telemetry.nvml import Nvml, describe_machine
from core.telemetry.sampler import Sampler
from core.telemetry.samples import GpuFacts, MemorySource

LANE = "sweep"
"""The name under which every engine of a sweep runs."""
DEFAULT_RATIOS = (0.8, 0.6, 0.4, 0.2, 0.05)
_MOST_POINTS = 60

_PROMPT = "Count slowly from one to a hundred, and write each number as a word."
_SETTLE_S = 15.0
_SETTLED_BYTES = 64 * 2**20

JOB_KIND = "memory-sweep"


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


class Sweeper:
    """One sweep. `nvml` tells the GPU's memory, `rows` how engines are started."""

    def __init__(
        self,
        settings: Settings,
        plan: SweepPlan,
        *,
        nvml: Nvml,
        rows: Mapping[EngineKind, LaunchRow] = LAUNCH_TABLE,
    ) -> None:
        self._settings = settings
        self._plan = plan
        self._nvml = nvml
        self._rows = rows
        self._watch = EngineWatch(settings)
        self._sampler = Sampler(nvml, self._watch)

    def run(self, on_point: Callable[[SweepRun], None]) -> SweepRun:
        """Measure all points; `on_point` gets the run after each. Raises InputError without that GPU."""
        gpu = self._gpu()
        run = SweepRun(
            plan=self._plan,
            gpu_name=gpu.name,
            gpu_total_bytes=gpu.total_bytes,
            machine=describe_machine(self._nvml),
        )
        used_at_first = gpu.used_bytes
        for point in self._plan.points:
            self._settle(used_at_first)
            result, version = self._measure(point)
            run = replace(run, points=(*run.points, result), engine_version=run.engine_version or version)
            on_point(run)
        return run

    def _measure(self, point: SweepPoint) -> tuple[PointResult, str | None]:
        lane = self._plan.lane(point)
        before = self._sampler.sample().gpu(self._plan.gpu)
        result = PointResult(point=point, free_before_bytes=before.free_bytes if before else None)
        manager = EngineManager(self._settings, [lane], gpu=self._nvml, rows=self._rows)
        version = None
        try:
            result = self._predict(result, lane)
            began = time.monotonic()
            manager.ensure(LANE)
            version = manager.wait_until_healthy(LANE, lane.settings.start_timeout_s).version
            result = replace(result, start_s=time.monotonic() - began)
            result = replace(result, decode_tok_per_s=self._ask(lane))
            result = self._read_memory(result, before.used_bytes if before else None)
        except LMDynoError as error:
            result = replace(result, error=ErrorInfo.of(error))
        finally:
            manager.close()
        return result, version

    def _predict(self, result: PointResult, lane: LaneSpec) -> PointResult:
        if result.free_before_bytes is None:
            raise TelemetryUnavailable(
                N_("Can't read the GPU's free memory."), hint=N_("Run `lmdyno doctor` to find out why.")
            )
        sizes = checkpoint_sizes(read_checkpoint(model_path(lane)), awq=False)
        settings = MemorySettings(
            cache_max_entry_count=result.point.ratio,
            kv_bits=result.point.kv_bits,
            max_batch_size=lane.settings.max_batch_size,
            session_len=lane.settings.session_len,
        )
        prediction = predict(sizes, settings, result.free_before_bytes)
        return replace(
            result,
            predicted_parts=prediction.parts,
            predicted_kv_bytes=prediction.pool.reserved_bytes,
            predicted_kv_tokens=prediction.pool.tokens,
        )

    def _ask(self, lane: LaneSpec) -> float | None:
        """Send one request; its decode speed. Raises EngineError if it failed."""
        plan = TurnPlan(
            conversation_id=new_id(),
            prompt=_PROMPT,
            sampling=Sampling(max_tokens=self._plan.max_tokens, fixed_length=True),
            requests=(RequestPlan(lane=lane, messages=messages_for(_PROMPT)),),
        )

        async def turn() -> float | None:
            (record,) = await run_turn(
                plan,
                resolve=partial(find_endpoint, self._settings),
                lease=partial(lease, self._settings),
                on_update=lambda _: None,
                cancel=asyncio.Event(),
                stopped=StoppedRequests(self._settings, gpus=self._nvml),
            )
            if record.error:
                raise LMDynoError(record.error.message, hint=record.error.hint, code=record.error.code)
            return record.decode_tok_per_s

        return asyncio.run(turn())

    def _read_memory(self, result: PointResult, used_before_bytes: int | None) -> PointResult:
        sample = self._sampler.sample()
        reading = next((engine for engine in sample.engines if engine.name == LANE), None)
        share = next((s for s in reading.gpu_memory if s.gpu == self._plan.gpu), None) if reading else None
        now = sample.gpu(self._plan.gpu)
        used = now.used_bytes if now else None
        kv = self._watch.kv_log(LANE)
        return replace(
            result,
            measured_bytes=share.used_bytes if share else None,
            measured_source=share.source if share else None,
            used_delta_bytes=None if used is None or used_before_bytes is None else used - used_before_bytes,
            log_free_bytes=kv.free_bytes if kv else None,
            log_kv_bytes=kv.reserved_bytes if kv else None,
            log_kv_tokens=kv.tokens if kv else None,
            log_block_bytes=kv.block_bytes if kv else None,
        )

    def _gpu(self) -> GpuFacts:
        gpus = {gpu.index: gpu for gpu in self._nvml.devices()}
        if self._plan.gpu not in gpus:
            raise InputError(
                N_("This machine has no NVIDIA GPU {index}.", index=self._plan.gpu),
                hint=N_("Run the sweep on a machine with one, or use `lmdyno memory predict`."),
                code="no-gpu",
            )
        return gpus[self._plan.gpu]

    def _settle(self, used_at_first: int | None) -> None:
        """Wait until the engine before has given its memory back; what others took meanwhile may stay."""
        deadline = time.monotonic() + _SETTLE_S
        while used_at_first is not None and time.monotonic() < deadline:
            used = self._gpu().used_bytes
            if used is None or used <= used_at_first + _SETTLED_BYTES:
                return
            time.sleep(0.2)


def start_sweep(settings: Settings, plan: SweepPlan, *, node: str | None = None) -> str:
    """Start the sweep, here or on a node of the cluster, and return its job's id.

    Raises InputError if one waits or runs on that GPU already.
    """
    arguments = {"plan": json.loads(encode(plan))}
    device = f"gpu{plan.gpu}" if node is None else f"{node}-gpu{plan.gpu}"
    return Jobs(settings).start_module(
        JOB_KIND,
        "core.bench.memory_sweep",
        arguments if node is None else {**arguments, "node": node},
        title=sweep_title(plan, node),
        job_id=plan.id,
        device=device,
        already_running=N_("A memory sweep is already running on this GPU."),
        is_same=lambda spec: spec.device == device,
    )


def sweep_title(plan: SweepPlan, node: str | None = None) -> Text:
    if node is not None:
        return N_plural(
            "Memory sweep of {model} on node {node}, {n} point",
            "Memory sweep of {model} on node {node}, {n} points",
            len(plan.points),
            model=plan.model.name,
            node=node,
        )
    return N_plural(
        "Memory sweep of {model}, {n} point",
        "Memory sweep of {model}, {n} points",
        len(plan.points),
        model=plan.model.name,
    )


def sweep_id(spec: JobSpec) -> str:
    """The id under which the job's run is kept."""
    return str(spec.arguments["plan"]["id"])


def _error(predicted: int | None, measured: int | None) -> float | None:
    return None if predicted is None or not measured else predicted / measured - 1


def _measure(arguments: Mapping[str, Any], report: Report) -> Mapping[str, Any]:
    """Measure the plan; the run is saved after each point, the result names it."""
    settings = load_settings()
    plan = decode(SweepPlan, json.dumps(arguments["plan"]))

    def on_point(so_far: SweepRun) -> None:
        save(settings, so_far)
        tell(len(so_far.points))

    def tell(done: int) -> None:
        total = len(plan.points)
        if done < total:
            stage = N_(
                "{done} of {total} measured, current: {point}",
                done=done,
                total=total,
                point=plan.points[done].label,
            )
        else:
            stage = N_("Done")
        report(stage, done / total)

    tell(0)
    try:
        finished = Sweeper(settings, plan, nvml=Nvml()).run(on_point)
    finally:
        if (measured := load(settings, plan.id)) is not None:
            keep(settings, measured, sweep_title(plan))
    return {"sweep": plan.id, "failed": sum(point.error is not None for point in finished.points)}


def _measure_on_node(arguments: Mapping[str, Any], report: Report) -> Mapping[str, Any]:
    """Have the node measure the plan; the run is saved here after each point."""
    settings = load_settings()
    plan = decode(SweepPlan, json.dumps(arguments["plan"]))
    spec = JobSpec(
        kind=JOB_KIND,
        title=sweep_title(plan),
        worker="core.bench.memory_sweep",
        arguments={"plan": json.loads(encode(plan))},
        device=f"gpu{plan.gpu}",
        python=sys.executable,
    )
    outcome = str(run_file(settings, plan.id).relative_to(settings.home))
    try:
        return follow(
            settings,
            arguments["node"],
            NodeJob(spec=spec, outcome=outcome),
            report,
            lambda content: save(settings, decode(SweepRun, content)),
        )
    finally:
        if (measured := load(settings, plan.id)) is not None:
            keep(settings, measured, sweep_title(plan, arguments["node"]))


def work(arguments: Mapping[str, Any], report: Report) -> Mapping[str, Any]:
    """Measure here, or on the node among the arguments."""
    return _measure_on_node(arguments, report) if "node" in arguments else _measure(arguments, report)


def main() -> int:
    # Ends the engine, or the job on the node, on the way out; by default the signal ends the process.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    return run(work)


if __name__ == "__main__":
    sys.exit(main())
