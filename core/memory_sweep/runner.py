"""Measures a sweep, point by point: start the engine, send a request, read its memory, stop it.

The request goes through the meter's own code. One failing point is that point's result. Runs in the sweep's
own process (`core.memory_sweep.job`); it blocks while it measures.
"""

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial

from core.domain.conversation import Sampling, messages_for
from core.domain.specs import EngineKind, LaneSpec
from core.domain.turns import ErrorInfo, RequestPlan, TurnPlan, new_id
from core.engines.launch.table import LAUNCH_TABLE, LaunchRow, model_path
from core.engines.manager import EngineManager
from core.engines.registry import lease
from core.engines.requests import StoppedRequests
from core.engines.resolve import find_endpoint
from core.engines.status import EngineWatch
from core.errors import InputError, LMDynoError, TelemetryUnavailable
from core.i18n import N_
from core.memory.model_sizes import checkpoint_sizes
from core.memory.prediction import MemorySettings, predict
from core.memory_sweep.sweep import LANE, PointResult, SweepPlan, SweepPoint, SweepRun
from core.meter.turns import run_turn
from core.models.checkpoint import read_checkpoint
from core.settings import Settings
from core.telemetry.nvml import Nvml, describe_machine
from core.telemetry.sampler import Sampler
from core.telemetry.samples import GpuFacts

_PROMPT = "Count slowly from one to a hundred, and write each number as a word."
_SETTLE_S = 15.0
_SETTLED_BYTES = 64 * 2**20


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
