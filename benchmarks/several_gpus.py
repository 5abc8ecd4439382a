"""Tensor parallel engines, placement, replicas and energy on a machine with two GPUs; one JSON file.

    python benchmarks/several_gpus.py --out FILE --tokenizer MODEL_DIR [--work DIR] [--only STEP …]

Needs two NVIDIA GPUs with LMDeploy. Random weights stand in for a model of InternLM2-7B's size
(tools/random_checkpoint.py): speed and memory don't depend on values. MODEL_DIR lends its tokenizer, such as
that of the demo weights. Each step starts the engines that it needs and ends the others, so `--only` repeats
any of them; FILE keeps what the other steps have found.

`--tiny` shows on a machine without a GPU that the program runs: two GPUs are made up, and scripted servers
answer. It measures nothing.
"""

import argparse
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from gpu_steps import Steps, arguments, healthy, start_engines, tell, wait_for, write_weights

from core.config import load_lanes
from core.domain.specs import EngineKind
from core.engines.launch.table import LAUNCH_TABLE
from core.engines.manager import EngineManager
from core.engines.registry import Registry
from core.engines.status import EngineWatch
from core.engines.supervisor import read_start
from core.memory.model_sizes import checkpoint_sizes
from core.memory.prediction import MemorySettings, predict
from core.models.checkpoint import read_checkpoint
from core.reports.run_json import bench_from_json
from core.settings import load_settings
from core.telemetry.nvml import Nvml
from core.telemetry.sampler import Sampler

SESSION_LEN = 4096
STREAMS = 64
START_S = 100.0
"""Most that the engines of one step may take to start."""
OUTPUT_TOKENS = 128
LANE = """
[lanes.{name}]
engine = "{engine}"
model = "internlm2-7b"
dtype = "float16"
session_len = {session_len}
max_batch_size = {streams}
cache_max_entry_count = {ratio}
start_timeout_s = 90
{more}
"""
LANES = {
    "turbomind": ("turbomind", 0.3, ""),
    "awq": ("awq", 0.3, ""),
    "awq-on-0": ("awq", 0.3, "devices = [0]"),
    "awq-on-1": ("awq", 0.3, "devices = [1]"),
    "turbomind-tp2": ("turbomind", 0.3, "tp = 2"),
    "awq-tp2": ("awq", 0.3, "tp = 2"),
    "turbomind-x2": ("turbomind", 0.3, "replicas = 2"),
}
"""Each lane's engine, KV ratio and further settings. Those that name no device are placed by free memory."""


class Measurement:
    """The steps. Engines run in this process's manager, load tests in the command line's own process."""

    def __init__(self, options: argparse.Namespace, steps: Steps) -> None:
        self._work: Path = options.work
        self._tokenizer: Path = options.tokenizer
        self._tiny: bool = options.tiny
        self._seconds: float = options.point_s
        self._steps = steps
        os.environ |= {
            "LMDYNO_HOME": str(self._work / "home"),
            "LMDYNO_LANES": str(self._work / "lanes.toml"),
        }
        (self._work / "lanes.toml").write_text(self._lanes_file(), "utf-8")
        self._settings = load_settings()
        registry = load_lanes(self._settings, gpu=True)
        self._lanes = {lane.name: lane for lane in registry.lanes}
        self._nvml = Nvml()
        rows, view = LAUNCH_TABLE, self._nvml
        if self._tiny:
            from several_gpus_dry import TwoGpus, scripted_rows

            rows, view = scripted_rows(), TwoGpus()
        self._gpus = view
        self._manager = EngineManager(self._settings, registry.lanes, gpu=view, rows=rows)
        self._watch = EngineWatch(self._settings)
        self._sampler = Sampler(self._nvml, self._watch)
        self._up: list[str] = []
        self._free_before: dict[str, dict[str, int]] = {}

    # The steps, in order.

    def checkpoints(self) -> Any:
        size = "tiny" if self._tiny else "internlm2-7b"
        writers = [
            write_weights(size, self._tokenizer, self._folder(awq=awq), awq=awq) for awq in (False, True)
        ]
        wait_for(writers)
        return {path.parent.name: path.stat().st_size for path in self._work.glob("7b*/model.safetensors")}

    def gpus(self) -> Any:
        """What is there before anything runs, and which of NCCL's switches the engines inherit."""
        names = ("NCCL_NVLS_ENABLE", "TORCH_SYMM_MEM_DISABLE_MULTICAST", "NVSHMEM_DISABLE_NVLS")
        return {
            "gpus": [
                {
                    "index": gpu.index,
                    "name": gpu.name,
                    "used_bytes": gpu.used_bytes,
                    "free_bytes": gpu.free_bytes,
                }
                for gpu in self._gpus.devices()
            ],
            "environment": {name: os.environ.get(name) for name in names},
        }

    def two_gpus(self) -> Any:
        """Two lanes that start together, each placed on a GPU of its own."""
        names = ("turbomind", "awq")
        found = {"start": self._only(*names), "memory": self._memory()}
        return found | self._bench(
            "two-gpus", names, "--together", "--concurrency", f"1,{STREAMS}", repeats=2, timeout_s=110
        )

    def one_gpu(self) -> Any:
        """The same two engines on one GPU."""
        first = self._only("turbomind")
        entry = Registry(self._settings).get("turbomind")
        names = ("turbomind", f"awq-on-{entry.gpus[0] if entry and entry.gpus else 0}")
        found = {"start": first | self._only(*names), "memory": self._memory()}
        return found | self._bench(
            "one-gpu", names, "--together", "--concurrency", f"1,{STREAMS}", repeats=2, timeout_s=110
        )

    def replicas(self) -> Any:
        """One engine against two behind LMDeploy's proxy, at the same number of requests at once."""
        names = ("turbomind", "turbomind-x2")
        # One after another, so that it is known what was free before the second.
        found = {"start": self._only(names[0]) | self._only(*names), "memory": self._memory()}
        levels = f"1,{STREAMS},{2 * STREAMS}"
        return found | self._bench("replicas", names, "--concurrency", levels, repeats=2, timeout_s=110)

    def tp2(self, name: str) -> Any:
        found = {"start": self._only(name), "memory": self._memory()}
        return found | self._bench(name, (name,), "--concurrency", f"1,{STREAMS}", repeats=2, timeout_s=60)

    def close(self) -> None:
        self._manager.close()
        self._only()  # what a load test that had to be killed did not give back

    # Parts of steps.

    def _lanes_file(self) -> str:
        model = f'[models.internlm2-7b]\ncheckpoint = "{self._folder(awq=False)}"\n'
        model += f'awq = "{self._folder(awq=True)}"\n'
        return model + "".join(
            LANE.format(
                name=name, engine=engine, ratio=ratio, more=more, session_len=SESSION_LEN, streams=STREAMS
            )
            for name, (engine, ratio, more) in LANES.items()
        )

    def _folder(self, *, awq: bool) -> Path:
        return self._work / ("7b-awq" if awq else "7b")

    def _only(self, *names: str) -> Any:
        """Run these engines and no others; what the starts came to."""
        for name in [name for name in self._up if name not in names]:
            self._manager.stop(name, force=True)
            self._up.remove(name)
        missing = [name for name in names if name not in self._up]
        if not missing:
            return {}
        free = {str(gpu.index): gpu.free_bytes or 0 for gpu in self._gpus.devices()}
        self._free_before |= dict.fromkeys(missing, free)
        found = start_engines(self._manager, [self._lanes[name] for name in missing], START_S)
        self._up += healthy(found)
        return found

    def _memory(self) -> Any:
        """Each running engine's memory on each GPU, predicted and measured, and what is left unexplained."""
        self._ask_all()
        sample = self._sampler.sample()
        readings = {reading.name: reading for reading in sample.engines}
        found: dict[str, Any] = {
            "engines": {name: self._engine_memory(name, readings.get(name)) for name in self._up},
            "gpus": [],
        }
        for gpu in sample.gpus:
            ours = sum(reading.gpu_bytes(gpu.index) or 0 for reading in sample.engines)
            found["gpus"].append(
                {
                    "index": gpu.index,
                    "used_bytes": gpu.used_bytes,
                    "engines_bytes": ours,
                    "explained_ratio": ours / gpu.used_bytes if gpu.used_bytes else None,
                }
            )
        return found

    def _engine_memory(self, name: str, reading: Any) -> Any:
        lane, entry = self._lanes[name], Registry(self._settings).get(name)
        gpus = entry.gpus if entry else ()
        free = {str(index): self._free_before[name][str(index)] for index in gpus}
        if lane.settings.replicas == 1:  # one engine reserves as much on each of its GPUs
            free = dict.fromkeys(free, min(free.values(), default=0))
        sizes = checkpoint_sizes(
            read_checkpoint(str(self._folder(awq=lane.kind is EngineKind.AWQ))), awq=False
        )
        settings = MemorySettings(
            cache_max_entry_count=lane.settings.cache_max_entry_count,
            max_batch_size=STREAMS,
            session_len=SESSION_LEN,
            tp=lane.settings.tp,
        )
        predicted = {index: predict(sizes, settings, size) for index, size in free.items()}
        kv = self._watch.kv_log(name)
        measured = {str(index): reading.gpu_bytes(index) if reading else None for index in gpus}
        return {
            "gpus": gpus,
            "free_before_bytes": self._free_before[name],
            "predicted": {
                index: {
                    "total_bytes": each.total_bytes,
                    "parts": {str(part.name): part.size_bytes for part in each.parts},
                    "kv_bytes": each.pool.reserved_bytes,
                    "kv_tokens": each.pool.tokens,
                }
                for index, each in predicted.items()
            },
            "measured_bytes": measured,
            "error_ratio": {
                index: predicted[index].total_bytes / used - 1 if used else None
                for index, used in measured.items()
            },
            "log_free_bytes": kv.free_bytes if kv else None,
            "log_kv_bytes": kv.reserved_bytes if kv else None,
            "log_kv_tokens": kv.tokens if kv else None,
            "log": [
                line
                for line in read_start(self._manager.log_file(name)).splitlines()
                if any(word in line for word in ("Object cache", "slab_size", "NCCL", "comm", "symm"))
            ][:40],
        }

    def _ask_all(self) -> None:
        """One request to each engine, so that what is allocated with the first one is there."""
        for name in self._up:
            self._steps.core("chat", "--lane", name, "--max-tokens", "64", "Count.", timeout_s=40)

    def _bench(
        self, name: str, lanes: Sequence[str], *load: str, repeats: int, timeout_s: float
    ) -> dict[str, Any]:
        """A load test by the command line, of those of the lanes whose engines run."""
        there = [lane for lane in lanes if lane in self._up]
        if not there:
            return {"failed": f"no engine of {', '.join(lanes)} runs"}
        options = [option for option in load if option != "--together" or len(there) > 1]
        file = self._work / f"run-{name}.json"
        words = [word for lane in there for word in ("--lane", lane)] + options
        words += ["--seconds", f"{self._seconds:g}", "--repeats", str(repeats), "--title", name]
        words += ["--prompt-tokens", "16" if self._tiny else "128"]
        words += ["--output-tokens", "8" if self._tiny else str(OUTPUT_TOKENS)]
        return self._steps.load_test(file, words, figures, timeout_s=timeout_s)


def figures(document: bytes) -> dict[str, Any]:
    """What a run says: its points, its interference, and the energy of each GPU in each pass."""
    known = json.loads(document)
    record = bench_from_json(document)
    return {
        "points": known["points"],
        "interference": known["interference"],
        "speed_ups": known["speed_ups"],
        "passes": [
            {
                "lanes": each.lanes,
                "concurrency": each.level.concurrency,
                "repeat": each.repeat,
                "seconds": round((each.end_ns - each.start_ns) * 1e-9, 3) if each.end_ns else None,
                "gpus": {
                    str(gpu.index): {"energy_j": gpu.energy_j, "idle_power_w": gpu.idle_power_w}
                    for gpu in each.gpus
                },
                "engines": {use.lane: use.peak_gpu_bytes for use in each.engines},
            }
            for each in record.passes
        ],
        "errors": {facts.lane.name: facts.error for facts in record.run.lanes if facts.error},
    }


def main() -> None:
    parser = arguments(__doc__, out="a JSON file", work="/tmp/lmdyno-gpus", limit_s=470.0)
    parser.add_argument("--point-s", type=float, default=2.0, help="how long each point sends requests")
    parser.add_argument("--only", nargs="*", help="names of steps; default all")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    steps = Steps(options.out, options.limit_s, keep=bool(options.only))
    run = Measurement(options, steps)
    # By what would be missed most.
    planned: list[tuple[str, Callable[[], Any], float]] = [
        ("checkpoints", run.checkpoints, 0),
        ("gpus", run.gpus, 0),
        ("two gpus", run.two_gpus, 60),
        ("tp 2", lambda: run.tp2("turbomind-tp2"), 50),
        ("awq tp 2", lambda: run.tp2("awq-tp2"), 50),
        ("replicas", run.replicas, 60),
        ("one gpu", run.one_gpu, 60),
    ]
    try:
        steps.run_planned(planned, [*options.only, "checkpoints"] if options.only else [])
    finally:
        run.close()
        tell(f"over after {options.limit_s - steps.left_s:.0f} s")


if __name__ == "__main__":
    main()
