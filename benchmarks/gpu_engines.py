"""hf, turbomind and awq on a real GPU, through LMDyno's own command line; writes one JSON file.

    python benchmarks/gpu_engines.py --out docs/measurements/engines.json [--work DIR] [--only STEP …]

Each step is recorded with the command it ran, and a failing step doesn't stop the next. Random weights stand
in for models of InternLM2-1.8B's size (tools/random_checkpoint.py): speed and memory don't depend on values.
"""

import argparse
import asyncio
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from core.config import load_lanes  # noqa: E402
from core.domain.conversation import Sampling, messages_for  # noqa: E402
from core.domain.specs import LaneSpec  # noqa: E402
from core.domain.turns import RequestPlan, TurnPlan, new_id  # noqa: E402
from core.engines.manager import EngineManager  # noqa: E402
from core.engines.registry import lease  # noqa: E402
from core.engines.resolve import find_endpoint  # noqa: E402
from core.meter.turns import run_turn  # noqa: E402
from core.settings import Settings, load_settings  # noqa: E402
from core.telemetry.nvml import Nvml  # noqa: E402

QUESTION = "What is the capital of Japan?"
LONG_PROMPT = " ".join(
    f"Line {n}: the engine turns, the gauge is read, the value is written down." for n in range(8)
)
TOKENS = 256
PAIRS = 24

LANES = """
[models.internlm2-size]
checkpoint = "{work}/internlm2-1.8b"
awq = "{work}/internlm2-1.8b-awq"

[models.internlm2-7b-size]
checkpoint = "{work}/internlm2-7b"

[lanes.hf]
engine = "transformers"
model = "internlm2-size"
dtype = "float16"

[lanes.turbomind]
engine = "turbomind"
model = "internlm2-size"
dtype = "float16"

[lanes.awq]
engine = "awq"
model = "internlm2-size"
weights = "awq"

[lanes.turbomind-kv80]
engine = "turbomind"
model = "internlm2-size"
dtype = "float16"
cache_max_entry_count = 0.8

[lanes.turbomind-kv95]
engine = "turbomind"
model = "internlm2-size"
dtype = "float16"
cache_max_entry_count = 0.95

[lanes.too-much]
engine = "turbomind"
model = "internlm2-7b-size"
dtype = "float16"
cache_max_entry_count = 0.5
"""


class Walk:
    def __init__(self, work: Path) -> None:
        self.work = work
        self.lanes_file = work / "lanes.toml"
        self.lanes_file.write_text(LANES.format(work=work))
        self.base = {**os.environ, "LMDYNO_HOME": str(work / "home")}

    def core(self, *args: str, sized: bool = False, timeout_s: float = 540) -> dict[str, Any]:
        """Run `python -m core …`; its JSON if it printed some, else the end of its output."""
        env = dict(self.base)
        if sized:
            env["LMDYNO_LANES"] = str(self.lanes_file)
        began = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-m", "core", *args],
            cwd=ROOT,
            env=env,
            capture_output=True,
            text=True,
            timeout=timeout_s,
        )
        result: dict[str, Any] = {
            "command": "python -m core " + " ".join(args),
            "exit_code": done.returncode,
            "wall_s": round(time.perf_counter() - began, 2),
        }
        try:
            result["output"] = json.loads(done.stdout)
        except ValueError:
            result["output"] = done.stdout[-100_000:]
        if done.returncode:
            result["stderr"] = done.stderr[-3000:]
        return result

    # The steps, in order.

    def doctor(self) -> Any:
        return self.core("doctor", "--json")

    def demo_weights(self) -> Any:
        return self.core("models", "demo")

    def demo_chat(self) -> Any:
        lanes = ["--lane", "hf", "--lane", "turbomind", "--lane", "awq", "--json"]
        return {
            "one after another": self.core("chat", QUESTION, *lanes),
            "together": self.core("chat", QUESTION, *lanes, "--together"),
        }

    def checkpoints(self) -> Any:
        demo = next((self.work / "home" / "models").glob("*/tokenizer.json")).parent
        for name, awq in [("internlm2-1.8b", False), ("internlm2-1.8b", True), ("internlm2-7b", False)]:
            out = self.work / (name + ("-awq" if awq else ""))
            command = [sys.executable, "tools/random_checkpoint.py", name, "--tokenizer", str(demo)]
            command += ["--out", str(out)] + (["--awq"] if awq else [])
            subprocess.run(command, cwd=ROOT, check=True, env=self.base)
        return {path.parent.name: path.stat().st_size for path in self.work.glob("*/model.safetensors")}

    def sized_chat(self) -> Any:
        for lane in ("hf", "turbomind", "awq"):
            started = self.core("engines", "start", lane, "--json", sized=True)
            if started["exit_code"]:
                return started
        fixed = ["--max-tokens", str(TOKENS), "--fixed-length", "--json"]
        lanes = ["--lane", "hf", "--lane", "turbomind", "--lane", "awq"]
        self.core("chat", LONG_PROMPT, *lanes, "--max-tokens", "16", "--fixed-length", "--json", sized=True)
        runs = [self.core("chat", LONG_PROMPT, *lanes, *fixed, sized=True) for _ in range(3)]
        together = self.core("chat", LONG_PROMPT, *lanes, *fixed, "--together", sized=True)
        memory = gpu_memory()
        engines = self.core("engines", "list", "--json", sized=True)
        self.core("engines", "stop", "--all", sized=True)
        return {"one after another": runs, "together": together, "gpu": memory, "engines": engines}

    def pipeline_ratio(self) -> Any:
        """Decode speed of the turbomind lane over HTTP against lmdeploy.pipeline, request by request in turn.

        Both are resident with the same settings but for the KV cache's share of the memory, which a single
        request doesn't feel.
        """
        os.environ |= self.base | {"LMDYNO_LANES": str(self.lanes_file)}
        settings = load_settings()
        lane = load_lanes(settings, gpu=True).lane("turbomind")
        manager = EngineManager(settings, [lane], gpu=Nvml())
        pipeline = subprocess.Popen(
            [sys.executable, "-c", PIPELINE, str(self.work / "internlm2-1.8b"), LONG_PROMPT, str(TOKENS)],
            cwd=ROOT,
            env=self.base,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert pipeline.stdin
        assert pipeline.stdout
        pairs = []
        try:
            while "ready" not in (line := pipeline.stdout.readline()):
                assert line, "the pipeline did not start"
            manager.ensure(lane.name)
            manager.wait_until_healthy(lane.name, 300)
            for _ in range(PAIRS + 2):
                pipeline.stdin.write("go\n")
                pipeline.stdin.flush()
                while not (line := pipeline.stdout.readline()).startswith("speed "):
                    assert line, "the pipeline died"
                pairs.append((asyncio.run(decode_speed(settings, lane)), float(line.split()[1])))
        finally:
            pipeline.kill()
            pipeline.wait()
            manager.close()
        pairs = pairs[2:]
        lane_median = statistics.median(ours for ours, _ in pairs)
        pipeline_median = statistics.median(beside for _, beside in pairs)
        return {
            "pairs_lane_pipeline_decode_tok_per_s": pairs,
            "lane_median": lane_median,
            "pipeline_median": pipeline_median,
            "ratio_of_medians": lane_median / pipeline_median,
            "median_of_ratios": statistics.median(ours / beside for ours, beside in pairs),
        }

    def kv_ratio(self) -> Any:
        found = {}
        for lane in ("turbomind", "turbomind-kv80"):
            before = gpu_memory()
            started = self.core("engines", "start", lane, "--json", sized=True)
            found[lane] = {"before": before, "after": gpu_memory(), "started": started}
            found[lane]["log"] = [
                line
                for line in self.core("engines", "logs", lane, "--lines", "400", sized=True)[
                    "output"
                ].splitlines()
                if "slab_size" in line or "cache budget" in line
            ]
            self.core("engines", "stop", lane, sized=True)
        return found

    def does_not_fit(self) -> Any:
        first = self.core("engines", "start", "turbomind-kv95", "--json", sized=True)
        second = self.core("engines", "start", "too-much", "--json", sized=True)
        self.core("engines", "stop", "--all", sized=True)
        return {"first": first, "second": second}

    def killed(self) -> Any:
        """kill -9 of the engine in mid-answer costs its own lane one message; the other lane goes on."""
        for lane in ("turbomind", "awq"):
            self.core("engines", "start", lane, "--json", sized=True)
        engines = {e["lane"]: e for e in self.core("engines", "list", "--json", sized=True)["output"]}
        timer = threading.Timer(4.0, os.kill, (engines["turbomind"]["pid"], signal.SIGKILL))
        timer.start()
        chat = self.core(
            "chat",
            QUESTION,
            "--lane",
            "turbomind",
            "--lane",
            "awq",
            "--together",
            "--max-tokens",
            "3500",
            "--fixed-length",
            "--json",
            sized=True,
        )
        for lane in chat["output"]["lanes"]:
            lane["text"] = f"{len(lane['text'])} characters"
        listed = self.core("engines", "list", "--json", sized=True)
        self.core("engines", "stop", "--all", sized=True)
        return {"chat": chat, "engines": listed, "gpu after stop": gpu_memory()}

    def quantise(self) -> Any:
        text = self.work / "calibration.txt"
        text.write_text(
            "\n".join(p.read_text("utf-8") for p in sorted(Path(os.__file__).parent.glob("*.py"))[:60])
        )
        return self.core(
            "quantize",
            "smollm2-135m-instruct",
            "--calibration",
            str(text),
            "--samples",
            "32",
            "--seqlen",
            "1024",
            "--out",
            str(self.work / "home" / "models" / "smollm2-retry-awq"),
        )


PIPELINE = """
import sys, time
from lmdeploy import GenerationConfig, TurbomindEngineConfig, pipeline
if __name__ == "__main__":
    path, prompt, tokens = sys.argv[1], sys.argv[2], int(sys.argv[3])
    engine = TurbomindEngineConfig(
        dtype="float16", session_len=4096, max_batch_size=64, cache_max_entry_count=0.2
    )
    with pipeline(path, backend_config=engine) as pipe:
        sampling = GenerationConfig(max_new_tokens=tokens, do_sample=False, ignore_eos=True)
        print("ready", flush=True)
        for _ in sys.stdin:
            first = None
            for part in pipe.stream_infer(prompt, gen_config=sampling):
                if part.text:
                    last, last_tokens = time.perf_counter(), part.generate_token_len
                    if first is None:
                        first, first_tokens = last, last_tokens
            print("speed", (last_tokens - first_tokens) / (last - first), flush=True)
"""


async def decode_speed(settings: Settings, lane: LaneSpec) -> float:
    """One request of the lane, as the command line sends it."""
    plan = TurnPlan(
        conversation_id=new_id(),
        prompt=LONG_PROMPT,
        sampling=Sampling(max_tokens=TOKENS, fixed_length=True),
        requests=(RequestPlan(lane=lane, messages=messages_for(LONG_PROMPT)),),
    )
    (record,) = await run_turn(
        plan,
        resolve=partial(find_endpoint, settings),
        lease=partial(lease, settings),
        on_update=lambda _: None,
        cancel=asyncio.Event(),
    )
    assert record.decode_tok_per_s, record.error
    return record.decode_tok_per_s


def gpu_memory() -> dict[str, Any]:
    query = "name,memory.used,memory.free,memory.total"
    line = subprocess.run(
        ["nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader,nounits"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()[0]
    return dict(zip(query.replace("memory.", "mib_").split(","), line.split(", "), strict=True))


def versions() -> dict[str, str]:
    from importlib.metadata import version

    names = ("torch", "transformers", "lmdeploy", "streamlit", "aiohttp")
    return {name: version(name) for name in names} | {"python": platform.python_version()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path("/tmp/lmdyno-gpu"))
    parser.add_argument("--only", nargs="*", help="names of steps; default all")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    walk = Walk(options.work)
    steps: dict[str, Callable[[], Any]] = {
        "doctor": walk.doctor,
        "demo weights": walk.demo_weights,
        "demo chat": walk.demo_chat,
        "checkpoints": walk.checkpoints,
        "sized chat": walk.sized_chat,
        "pipeline ratio": walk.pipeline_ratio,
        "kv ratio": walk.kv_ratio,
        "does not fit": walk.does_not_fit,
        "killed": walk.killed,
        "quantise": walk.quantise,
    }
    report: dict[str, Any] = {
        "command": " ".join(["python", *sys.argv]),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": versions(),
        "gpu": gpu_memory(),
        "steps": {},
    }
    for name, step in steps.items():
        if options.only and name not in options.only:
            continue
        began = time.perf_counter()
        try:
            result = step()
        except Exception:  # noqa: BLE001  one broken step must not cost the others
            result = {"failed": traceback.format_exc()}
        report["steps"][name] = {"wall_s": round(time.perf_counter() - began, 1), "result": result}
        print(f"{name}: {report['steps'][name]['wall_s']} s", flush=True)
        options.out.write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
