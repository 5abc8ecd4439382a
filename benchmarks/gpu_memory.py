"""Predicted against measured GPU memory, attribution, energy per token and the sampler's cost; one JSON file.

    python benchmarks/gpu_memory.py --out docs/measurements/memory.json [--work DIR] [--only STEP …] [--full]

Needs an NVIDIA GPU with LMDeploy and transformers, and the demo weights' tokenizer. Random weights stand in
for models of InternLM2-1.8B's and -7B's size (tools/random_checkpoint.py): speed and memory don't depend on
values. The report is written after every point. Points that no longer fit into `--limit-s` are left out and
named.
`--samples FILE` records the samples of the step `resident` for the tests of the charts.
"""

import argparse
import asyncio
import json
import os
import platform
import statistics
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from core.bench.memory_sweep import (  # noqa: E402
    LANE,
    PointResult,
    Sweeper,
    SweepPlan,
    SweepPoint,
    SweepRun,
)
from core.codec import encode  # noqa: E402  the folder above is on the path only now
from core.domain.conversation import Sampling, messages_for  # noqa: E402
from core.domain.specs import EngineKind, EngineSettings, LaneSpec, ModelSpec, Weights  # noqa: E402
from core.domain.turns import RequestPlan, RequestRecord, TurnPlan, new_id  # noqa: E402
from core.engines.manager import EngineManager  # noqa: E402
from core.engines.registry import lease  # noqa: E402
from core.engines.resolve import find_endpoint  # noqa: E402
from core.engines.status import EngineWatch  # noqa: E402
from core.engines.supervisor import log_path, read_start  # noqa: E402
from core.meter.turns import run_turn  # noqa: E402
from core.settings import Settings, load_settings  # noqa: E402
from core.telemetry.nvml import Nvml, describe_machine  # noqa: E402
from core.telemetry.sampler import Sampler  # noqa: E402
from core.telemetry.samples import Sample  # noqa: E402

PROMPT = "The engine turns, the gauge is read, the value is written down. " * 10
TOKENS = 256
PAIRS = 10
RECORDED_SAMPLES = 150
POINT_S = 35.0
"""Time that must be left for a point to be begun."""

POINTS = {
    "internlm2-1.8b": (
        SweepPoint(ratio=0.8),
        SweepPoint(ratio=0.05),
        SweepPoint(ratio=0.4, kv_bits=8),
        SweepPoint(ratio=0.4, kv_bits=4),
        SweepPoint(ratio=0.4, awq=True),
    ),
    "internlm2-7b": (
        SweepPoint(ratio=0.4),
        SweepPoint(ratio=0.2, kv_bits=8),
        SweepPoint(ratio=0.4, awq=True),
        SweepPoint(ratio=0.6, kv_bits=4, awq=True),
    ),
}
MORE_POINTS = {
    "internlm2-1.8b": (
        SweepPoint(ratio=0.6),
        SweepPoint(ratio=0.4),
        SweepPoint(ratio=0.2),
        SweepPoint(ratio=0.05, awq=True),
    ),
    "internlm2-7b": (SweepPoint(ratio=0.8), SweepPoint(ratio=0.05), SweepPoint(ratio=0.8, awq=True)),
}


class OutOfTime(Exception):
    """The limit is near; what was measured stands."""


class Measurement:
    def __init__(self, options: argparse.Namespace, write: Callable[[str, Any], None]) -> None:
        self.work: Path = options.work
        self.full: bool = options.full
        self.samples_file: Path | None = options.samples
        self.deadline = time.monotonic() + options.limit_s
        self.write = write
        self.settings: Settings = replace(load_settings(), home=self.work / "home")
        self.nvml = Nvml()

    # The steps, in order.

    def checkpoints(self) -> Any:
        """Written once; a work folder may be used again."""
        self._core("models", "demo")
        demo = next((self.work / "home" / "models").glob("*/tokenizer.json")).parent
        for name in POINTS:
            for awq in (False, True):
                out = self._folder(name, awq=awq)
                if (out / "config.json").exists():
                    continue
                command = [sys.executable, "tools/random_checkpoint.py", name, "--tokenizer", str(demo)]
                command += ["--out", str(out)] + (["--awq"] if awq else [])
                subprocess.run(command, cwd=ROOT, check=True)
        return {path.parent.name: path.stat().st_size for path in self.work.glob("*/model.safetensors")}

    def sweep_small(self) -> Any:
        return self._sweep("internlm2-1.8b", "sweep 1.8b")

    def sweep_large(self) -> Any:
        return self._sweep("internlm2-7b", "sweep 7b")

    def resident(self) -> Any:
        """Three engines on one GPU at once: who holds what, what a token costs, what sampling costs."""
        lanes = self._resident_lanes()
        manager = EngineManager(self.settings, lanes, gpu=self.nvml)
        watch = EngineWatch(self.settings)
        sampler = Sampler(self.nvml, watch)
        sampler.start()
        began_ns = time.perf_counter_ns()
        try:
            time.sleep(3)  # idle power before anything is loaded
            for lane in lanes:
                manager.ensure(lane.name)
                manager.wait_until_healthy(lane.name, lane.settings.start_timeout_s)
            found: dict[str, Any] = {"attribution": _attribution(sampler.sample())}
            self.write("resident", found)
            for lane in lanes:
                asyncio.run(self._ask(lane))  # unscored
            time.sleep(3)  # idle power with everything loaded
            found["energy"] = {lane.name: self._energy(sampler, lane) for lane in lanes}
            found["attribution after requests"] = _attribution(sampler.sample())
            found["events"] = watch.events()
            found["start-up logs"] = {lane.name: _telling(self.settings, lane.name) for lane in lanes}
            self._record(sampler.samples(began_ns))
            self.write("resident", found)
            found["sampler cost"] = self._sampler_cost(sampler, lanes[1])
            return found
        finally:
            sampler.close()
            manager.close()

    # Parts of steps.

    def _core(self, *args: str) -> None:
        subprocess.run(
            [sys.executable, "-m", "core", *args],
            cwd=ROOT,
            check=True,
            env={**os.environ, "LMDYNO_HOME": str(self.settings.home)},
        )

    def _folder(self, name: str, *, awq: bool) -> Path:
        return self.work / (name + ("-awq" if awq else ""))

    def _model(self, name: str) -> ModelSpec:
        plain, awq = (str(self._folder(name, awq=form)) for form in (False, True))
        return ModelSpec(name=name, checkpoint=plain, awq=awq)

    def _sweep(self, name: str, step: str) -> Any:
        points = POINTS[name] + (MORE_POINTS[name] if self.full else ())
        plan = SweepPlan(model=self._model(name), points=points)
        latest: list[SweepRun] = []
        logs: list[list[str]] = []

        def on_point(run: SweepRun) -> None:
            latest[:] = [run]
            logs.append(_telling(self.settings, LANE))
            self.write(step, _sweep_report(run, logs))
            done = len(run.points)
            if done < len(points) and time.monotonic() > self.deadline - POINT_S:
                raise OutOfTime(f"left out: {', '.join(point.label for point in points[done:])}")

        try:
            Sweeper(self.settings, plan, nvml=self.nvml).run(on_point)
        except OutOfTime as stop:
            return {**_sweep_report(latest[0], logs), "out of time": str(stop)}
        return _sweep_report(latest[0], logs)

    def _resident_lanes(self) -> tuple[LaneSpec, ...]:
        model = self._model("internlm2-1.8b")
        settings = EngineSettings(dtype="float16", cache_max_entry_count=0.2)
        return (
            LaneSpec(
                name="hf", kind=EngineKind.TRANSFORMERS, model=model, settings=EngineSettings(dtype="float16")
            ),
            LaneSpec(name="turbomind", kind=EngineKind.TURBOMIND, model=model, settings=settings),
            LaneSpec(name="awq", kind=EngineKind.AWQ, model=model, weights=Weights.AWQ, settings=settings),
        )

    async def _ask(self, lane: LaneSpec) -> RequestRecord:
        plan = TurnPlan(
            conversation_id=new_id(),
            prompt=PROMPT,
            sampling=Sampling(max_tokens=TOKENS, fixed_length=True),
            requests=(RequestPlan(lane=lane, messages=messages_for(PROMPT)),),
        )
        (record,) = await run_turn(
            plan,
            resolve=partial(find_endpoint, self.settings),
            lease=partial(lease, self.settings),
            on_update=lambda _: None,
            cancel=asyncio.Event(),
        )
        if record.error:
            raise RuntimeError(f"{lane.name}: {record.error.message}")
        return record

    def _energy(self, sampler: Sampler, lane: LaneSpec) -> Any:
        rows = []
        for _ in range(3):
            record = asyncio.run(self._ask(lane))
            timing = record.timing
            assert timing is not None
            assert timing.ended_ns is not None
            gpu = sampler.window(timing.sent_ns, timing.ended_ns).gpus[0]
            idle_j = (
                None
                if gpu.idle_power_w is None
                else gpu.idle_power_w * (timing.ended_ns - timing.sent_ns) * 1e-9
            )
            rows.append(
                {
                    "output_tokens": record.output_tokens,
                    "decode_tok_per_s": record.decode_tok_per_s,
                    "energy_j": gpu.energy_j,
                    "energy_gap": gpu.energy_gap,
                    "energy_j_per_token": _per(gpu.energy_j, record.output_tokens),
                    "idle_power_w": gpu.idle_power_w,
                    "idle_energy_j": idle_j,
                    "mean_power_w": gpu.mean_power_w,
                    "peak_used_bytes": gpu.peak_used_bytes,
                }
            )
            time.sleep(2)  # back to idle
        return rows

    def _record(self, samples: Sequence[Sample]) -> None:
        if self.samples_file is None:
            return
        step = max(1, len(samples) // RECORDED_SAMPLES)
        # Gaps are the same in every sample of this machine; the processes' numbers say nothing to a reader.
        slim = [
            replace(sample, gpus=tuple(replace(gpu, gaps=(), processes=()) for gpu in sample.gpus))
            for sample in samples[::step]
        ]
        self.samples_file.parent.mkdir(parents=True, exist_ok=True)
        self.samples_file.write_bytes(encode({"samples": slim}))

    def _sampler_cost(self, sampler: Sampler, lane: LaneSpec) -> Any:
        """Decode speed of a lane with the sampler in the measuring process, and without it, in turns."""
        pairs = []
        for number in range(PAIRS):
            speeds: dict[str, float | None] = {}
            for name in ("with", "without") if number % 2 else ("without", "with"):
                if name == "with":
                    sampler.start()
                else:
                    sampler.close()
                speeds[name] = asyncio.run(self._ask(lane)).decode_tok_per_s
            pairs.append(speeds)
        ratios = [pair["with"] / pair["without"] for pair in pairs if pair["with"] and pair["without"]]
        return {"pairs_tok_per_s": pairs, "ratios": ratios, "median_ratio": statistics.median(ratios)}


def _attribution(sample: Sample) -> Any:
    """Each engine's share, and their sum over what the GPU reports as used."""
    gpu = sample.gpus[0]
    shares = {
        engine.name: {"used_bytes": share.used_bytes, "source": share.source}
        for engine in sample.engines
        for share in engine.gpu_memory
    }
    total = sum(share["used_bytes"] or 0 for share in shares.values())
    return {
        "gpu_used_bytes": gpu.used_bytes,
        "shares": shares,
        "sum_bytes": total,
        "sum_over_used_ratio": _per(total, gpu.used_bytes),
        "processes": gpu.processes,
    }


def _sweep_report(run: SweepRun, logs: Sequence[Sequence[str]]) -> Any:
    return {
        "gpu": run.gpu_name,
        "engine": run.engine_version,
        "worst_error_ratio": {
            "kv_bytes": _worst(result.kv_error_ratio for result in run.points),
            "kv_tokens": _worst(result.tokens_error_ratio for result in run.points),
            "total": _worst(result.total_error_ratio for result in run.points),
        },
        "points": [_point(result, log) for result, log in zip(run.points, logs, strict=True)],
    }


def _point(result: PointResult, log: Sequence[str]) -> Any:
    facts = json.loads(encode(result))
    return {
        "label": result.point.label,
        "kv_error_ratio": result.kv_error_ratio,
        "tokens_error_ratio": result.tokens_error_ratio,
        "total_error_ratio": result.total_error_ratio,
        **facts,
        "log": log,
    }


def _telling(settings: Settings, lane: str) -> list[str]:
    marks = ("cache budget", "slab_size", "[cache]", "Warm-up finished", "pages")
    lines = read_start(log_path(settings.logs_dir, lane)).replace("\r", "\n").splitlines()
    return [line for line in lines if any(mark in line for mark in marks)][:20]


def _worst(errors: Any) -> float | None:
    return max((abs(error) for error in errors if error is not None), default=None)


def _per(value: float | None, count: int | None) -> float | None:
    return None if value is None or not count else value / count


def versions() -> dict[str, str]:
    from importlib.metadata import version

    names = ("torch", "transformers", "lmdeploy", "aiohttp", "nvidia-ml-py")
    return {name: version(name) for name in names} | {"python": platform.python_version()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path("/tmp/lmdyno-gpu"))
    parser.add_argument("--samples", type=Path, help="where to record the samples of the step resident")
    parser.add_argument("--only", nargs="*", help="names of steps; default all")
    parser.add_argument(
        "--full", action="store_true", help="more points; takes longer than the default limit"
    )
    parser.add_argument("--limit-s", type=float, default=530.0, help="no point is begun near the end of it")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    report: dict[str, Any] = {
        "command": " ".join(["python", *sys.argv]),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": versions(),
        "machine": describe_machine(),
        "steps": {},
    }

    def write(step: str, result: Any) -> None:
        report["steps"].setdefault(step, {})["result"] = result
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(json.loads(encode(report)), indent=1), "utf-8")

    measurement = Measurement(options, write)
    # Weights first; then what is short and needs everything; the sweeps fill the time that is left.
    steps: dict[str, Callable[[], Any]] = {
        "checkpoints": measurement.checkpoints,
        "resident": measurement.resident,
        "sweep 1.8b": measurement.sweep_small,
        "sweep 7b": measurement.sweep_large,
    }
    for name, step in steps.items():
        if options.only and name not in options.only:
            continue
        began = time.perf_counter()
        try:
            write(name, step())
        except Exception:  # noqa: BLE001  one broken step must not cost the others
            write(
                name,
                {**(report["steps"].get(name, {}).get("result") or {}), "failed": traceback.format_exc()},
            )
        report["steps"][name]["wall_s"] = round(time.perf_counter() - began, 1)
        write(name, report["steps"][name]["result"])
        print(f"{name}: {report['steps'][name]['wall_s']} s", flush=True)


if __name__ == "__main__":
    main()
