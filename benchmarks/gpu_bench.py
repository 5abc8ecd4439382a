"""Load tests of hf, turbomind and awq on a real GPU, by LMDyno's own command line.

    python benchmarks/gpu_bench.py --out DIR --tokenizer MODEL_DIR [--work DIR] [--limit-s S] [--only STEP …]

Needs an NVIDIA GPU with LMDeploy and transformers. Random weights stand in for models of InternLM2-1.8B's and
-7B's size (tools/random_checkpoint.py): speed and memory don't depend on values. MODEL_DIR lends its
tokenizer, such as that of the demo weights.

In DIR:

bench.json          every step with its figures, renewed after each
runs/               the runs with all timestamps, compressed; `python -m benchmarks.bench_report` reads them

`--tiny` shows on a machine without a GPU that the program runs: tiny weights, and transformers on the CPU in
place of LMDeploy. It measures nothing.
"""

import argparse
import itertools
import json
import lzma
import os
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from gpu_sides import Side
from gpu_steps import Steps, arguments, healthy, start_engines, tell, wait_for, write_weights

from core.bench.bandwidth import measured_bandwidth, utilisations
from core.bench.results.result import BenchResult, results
from core.bench.workload import SyntheticPrompts
from core.config import load_lanes
from core.domain.specs import LaneSpec
from core.engines.manager import EngineManager
from core.models.context import LaneTokenizer
from core.reports.run_json import bench_from_json, point_json
from core.settings import load_settings
from core.telemetry.nvml import Nvml

KV_RATIO = 0.12
SESSION_LEN = 4096
START_S = 90.0
"""Most that one engine's start may take."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """How much is measured."""

    prompt_tokens: int = 128
    output_tokens: int = 128
    levels: str = "1,4,16,64"
    hf_levels: str = "1,4"
    hf_batching_levels: str = "1,4,16"
    together_levels: str = "1,16"
    batch: int = 128
    """Prompts of the batch that the sides are fed."""
    batch_output_tokens: int = 192
    streams: int = 64
    rounds: int = 12


TINY = Scale(
    prompt_tokens=16,
    output_tokens=8,
    levels="1,2",
    hf_batching_levels="1,2",
    together_levels="1",
    batch=4,
    batch_output_tokens=8,
    streams=2,
    rounds=2,
)

SIZES = {"1.8b": "internlm2-1.8b", "7b": "internlm2-7b"}
SUFFIXES = {"1.8b": "", "7b": "-7b"}
"""Of the names of lanes and models."""
LANES = """
[models.internlm2{suffix}]
checkpoint = "{work}/{size}"
awq = "{work}/{size}-awq"

[lanes.hf{suffix}]
engine = "transformers"
model = "internlm2{suffix}"
dtype = "float16"

[lanes.hf-batching{suffix}]
engine = "transformers"
model = "internlm2{suffix}"
dtype = "float16"
continuous_batching = true

[lanes.turbomind{suffix}]
engine = "turbomind"
model = "internlm2{suffix}"
dtype = "float16"
session_len = {session_len}
max_batch_size = {streams}
cache_max_entry_count = {kv_ratio}

[lanes.awq{suffix}]
engine = "awq"
model = "internlm2{suffix}"
weights = "awq"
session_len = {session_len}
max_batch_size = {streams}
cache_max_entry_count = {kv_ratio}
"""
TINY_LANES = """
[models.internlm2{suffix}]
checkpoint = "{work}/{size}"

[lanes.hf{suffix}]
engine = "transformers"
model = "internlm2{suffix}"
device = "cpu"

[lanes.hf-batching{suffix}]
engine = "transformers"
model = "internlm2{suffix}"
device = "cpu"
continuous_batching = true

[lanes.turbomind{suffix}]
engine = "transformers"
model = "internlm2{suffix}"
device = "cpu"
dtype = "float32"

[lanes.awq{suffix}]
engine = "transformers"
model = "internlm2{suffix}"
device = "cpu"
dtype = "bfloat16"
"""


class Measurement:
    """The steps; engines run from their step `start` to its step's `stop`."""

    def __init__(self, options: argparse.Namespace, steps: Steps) -> None:
        self._work: Path = options.work
        self._out: Path = options.out
        self._tokenizer: Path = options.tokenizer
        self._tiny: bool = options.tiny
        self._scale = TINY if options.tiny else Scale()
        self._seconds: float = options.point_s
        self._steps = steps
        os.environ |= {
            "LMDYNO_HOME": str(self._work / "home"),
            "LMDYNO_LANES": str(self._work / "lanes.toml"),
        }
        text = TINY_LANES if self._tiny else LANES
        fields = {
            "work": self._work,
            "session_len": SESSION_LEN,
            "streams": self._scale.streams,
            "kv_ratio": KV_RATIO,
        }
        tables = (text.format(size=size, suffix=SUFFIXES[size], **fields) for size in SIZES)
        (self._work / "lanes.toml").write_text("".join(tables), "utf-8")
        self._settings = load_settings()
        registry = load_lanes(self._settings, gpu=True)
        self._lanes: dict[str, LaneSpec] = {lane.name: lane for lane in registry.lanes}
        self._manager = EngineManager(self._settings, registry.lanes, gpu=Nvml())
        self._up: list[str] = []
        self._sides: dict[str, Side] = {}
        self._raw: list[Path] = []

    # The steps, in order.

    def bandwidth(self) -> Any:
        """The GPU is still empty, and the small weights are written meanwhile."""
        self._small = self._write_weights("1.8b")
        done = self._steps.core("bandwidth", "--json", timeout_s=60)
        return json.loads(done.stdout) if done.returncode == 0 else {"error": done.stderr.strip()}

    def start_small(self) -> Any:
        wait_for(self._small)
        large = self._write_weights("7b")
        if not self._tiny:
            self._sides["pipeline"] = Side("pipeline", self._order(), self._work)
        found = self._start("turbomind", "awq", "hf")
        wait_for(large)
        return found

    def sides(self) -> Any:
        """One batch of prompts by LMDyno, a bare client and the pipeline, in every order equally often.

        What ran before matters: a server that has just answered is faster than one that has rested.
        """
        order = self._order()
        for kind in ("lane", "bare"):
            self._sides[kind] = Side(kind, order, self._work)
        problems: dict[str, str] = {}
        for kind, side in list(self._sides.items()):
            try:
                side.wait_until_ready(60)
                side.batch()  # unscored
            except RuntimeError as error:
                problems[kind] = str(error)
                self._sides.pop(kind).close()
        rounds: list[dict[str, dict[str, Any]]] = []
        orders = list(itertools.permutations(self._sides))
        for number in range(self._scale.rounds):
            rounds.append({name: self._sides[name].batch() for name in orders[number % len(orders)]})
            found = {
                "scale": asdict(self._scale),
                "rounds": rounds,
                **_side_ratios(rounds),
                "problems": problems,
            }
            self._steps.put("sides", {"result": found})
        return found

    def close_sides(self) -> None:
        for side in self._sides.values():
            side.close()
        self._sides.clear()

    def main_run(self, size: str, repeats: int) -> Any:
        lanes = [f"{kind}{SUFFIXES[size]}" for kind in ("turbomind", "awq")]
        load = [
            "--concurrency",
            self._scale.levels,
            "--seconds",
            f"{self._seconds:g}",
            "--repeats",
            str(repeats),
        ]
        return self._bench(f"run-{size}", lanes, load, timeout_s=150)

    def hf(self, size: str, levels: str, requests: int) -> Any:
        load = ["--concurrency", levels, "--requests", str(requests), "--warmup", "1"]
        return self._bench(f"run-hf-{size}", [f"hf{SUFFIXES[size]}"], load, timeout_s=90)

    def hf_small(self) -> Any:
        return self.hf("1.8b", self._scale.hf_levels, 4)

    def together(self) -> Any:
        load = ["--together", "--concurrency", self._scale.together_levels, "--seconds", "2"]
        return self._bench("run-together", ["turbomind", "awq"], load, timeout_s=90)

    def start_large(self) -> Any:
        self._stop()
        return self._start("turbomind-7b", "awq-7b")

    def hf_large(self) -> Any:
        started = self._start("hf-7b")
        return {"start": started, **self.hf("7b", "1", 3)}

    def hf_batching(self) -> Any:
        """Continuous batching takes what memory is left, so everything else is stopped first."""
        self._stop()
        started = self._start("hf-batching")
        load = ["--concurrency", self._scale.hf_batching_levels, "--seconds", "2", "--warmup", "1"]
        return {"start": started, **self._bench("run-hf-batching", ["hf-batching"], load, timeout_s=60)}

    def close(self) -> None:
        self.close_sides()
        self._manager.close()
        self._stop()  # what a load test that had to be killed did not give back
        (self._out / "runs").mkdir(exist_ok=True)
        for file in self._raw:
            out = self._out / "runs" / f"{file.stem.removeprefix('run-')}.json.xz"
            out.write_bytes(lzma.compress(file.read_bytes(), preset=9 | lzma.PRESET_EXTREME))

    # Parts of steps.

    def _write_weights(self, size: str) -> list[Any]:
        if self._tiny:
            return [write_weights("tiny", self._tokenizer, self._work / size)]
        return [
            write_weights(
                SIZES[size], self._tokenizer, self._work / f"{size}{'-awq' if awq else ''}", awq=awq
            )
            for awq in (False, True)
        ]

    def _start(self, *names: str) -> Any:
        found = start_engines(self._manager, [self._lanes[name] for name in names], START_S * len(names))
        self._up += healthy(found)
        return found

    def _stop(self) -> None:
        for name in self._up:
            self._manager.stop(name, force=True)
        self._up.clear()

    def _order(self) -> dict[str, Any]:
        words = LaneTokenizer(self._tokenizer).plain_words()
        scale = self._scale
        prompts = SyntheticPrompts(words, scale.prompt_tokens, label="", seed=0, run_id="sides")
        return {
            "lane": "turbomind",
            "checkpoint": str(self._work / "1.8b"),
            "prompts": [prompts.messages(number)[0].content for number in range(scale.batch)],
            "output_tokens": scale.batch_output_tokens,
            "concurrency": scale.streams,
            "session_len": SESSION_LEN,
            "kv_ratio": KV_RATIO,
        }

    def _bench(
        self, name: str, lanes: Sequence[str], load: Sequence[str], timeout_s: float
    ) -> dict[str, Any]:
        """A load test by the command line, of those of the lanes whose engines run."""
        there = [lane for lane in lanes if lane in self._up]
        if not there:
            raise RuntimeError(f"no engine of {', '.join(lanes)} runs")
        if len(there) < 2:
            load = [option for option in load if option != "--together"]
        file = self._work / f"{name}.json"
        arguments = [word for lane in there for word in ("--lane", lane)] + [*load, "--title", name]
        arguments += ["--prompt-tokens", str(self._scale.prompt_tokens)]
        arguments += ["--output-tokens", str(self._scale.output_tokens)]
        facts = self._steps.load_test(file, arguments, self._figures, timeout_s=timeout_s)
        if file.exists():
            self._raw.append(file)
        return facts | {"command": facts["command"].replace(str(self._work), "WORK")}

    def _figures(self, document: bytes) -> dict[str, Any]:
        record = bench_from_json(document)
        result = results(record)
        known = json.loads(document)
        near = utilisations(result, record.passes, lambda name: measured_bandwidth(self._settings, name))
        return {
            "lanes": {
                facts.lane.name: {
                    "engine": facts.engine_version,
                    "weight_bytes": facts.weight_bytes,
                    "prompts": facts.prompts,
                    "error": facts.error,
                }
                for facts in record.run.lanes
            },
            "points": [point_json(point) for point in result.points],
            "speed_ups": known["speed_ups"],
            "interference": known["interference"],
            "faster": _faster(result),
            "roofline": [
                {
                    "lane": each.lane,
                    "decode_tok_per_s": each.decode_tok_per_s,
                    "limit_tok_per_s": each.limit.decode_tok_per_s,
                    "share": each.share,
                    "bandwidth_bytes_per_s": each.limit.bandwidth_bytes_per_s,
                    "bandwidth_measured": each.measured is not None,
                }
                for each in near
            ],
        }


def _side_ratios(rounds: Sequence[dict[str, dict[str, Any]]]) -> dict[str, Any]:
    """LMDyno's system speed over each other side's."""
    speeds = {
        name: [each[name]["tok_per_s"] for each in rounds]
        for name in rounds[0]
        if rounds[0][name]["tok_per_s"]
    }
    ours = speeds.get("lane")
    ratios = {}
    for name, theirs in speeds.items():
        if ours and name != "lane":
            pairs = [one / other for one, other in zip(ours, theirs, strict=True)]
            ratios[f"lane / {name}"] = {
                "ratio_of_medians": statistics.median(ours) / statistics.median(theirs),
                "median_of_ratios": statistics.median(pairs),
                "lowest": min(pairs),
                "highest": max(pairs),
                "rounds": len(pairs),
            }
    return {"medians_tok_per_s": {name: statistics.median(each) for name, each in speeds.items()}, **ratios}


def _faster(result: BenchResult) -> list[dict[str, Any]]:
    """AWQ over fp16 at each concurrency: where the ratio crosses 1, the other form is the faster one."""
    alone = {
        (point.lane.removesuffix("-7b"), point.level.concurrency): point
        for point in result.points
        if len(point.together) == 1
    }
    found = []
    for concurrency in sorted({level for _, level in alone if level}):
        fp16, awq = (alone.get((kind, concurrency)) for kind in ("turbomind", "awq"))
        if fp16 and awq and fp16.tpot_s and awq.tpot_s and fp16.system_tok_per_s and awq.system_tok_per_s:
            found.append(
                {
                    "concurrency": concurrency,
                    "awq_over_fp16_system_speed": awq.system_tok_per_s / fp16.system_tok_per_s,
                    "awq_over_fp16_decode_speed": fp16.tpot_s.mean / awq.tpot_s.mean,
                }
            )
    return found


def main() -> None:
    parser = arguments(__doc__, out="a folder for the results", work="/tmp/lmdyno-bench", limit_s=400.0)
    parser.add_argument("--point-s", type=float, default=1.2, help="how long each point sends requests")
    parser.add_argument("--only", nargs="*", help="names of steps; default all")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    options.work.mkdir(parents=True, exist_ok=True)
    steps = Steps(options.out / "bench.json", options.limit_s)
    run = Measurement(options, steps)
    # What the others need first; then by what would be missed most.
    planned: list[tuple[str, Callable[[], Any], float]] = [
        ("bandwidth", run.bandwidth, 0),
        ("start 1.8b", run.start_small, 30),
        ("sides", run.sides, 30),
        ("close sides", run.close_sides, 0),
        ("run 1.8b", lambda: run.main_run("1.8b", 3), 40),
        ("run hf 1.8b", run.hf_small, 25),
        ("run together", run.together, 20),
        ("start 7b", run.start_large, 60),
        ("run 7b", lambda: run.main_run("7b", 2), 40),
        ("run hf 7b", run.hf_large, 35),
        ("run hf with continuous batching", run.hf_batching, 40),
    ]
    try:
        steps.run_planned(planned, options.only or [])
    finally:
        run.close()
        tell(f"over after {options.limit_s - steps.left_s:.0f} s")


if __name__ == "__main__":
    main()
