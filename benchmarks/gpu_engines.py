"""hf, turbomind and awq on a real GPU, through LMDyno's own command line; writes one JSON file.

    python benchmarks/gpu_engines.py --out docs/measurements/engines.json [--work DIR] [--only STEP …]

Each step is recorded with the command it ran, and a failing step doesn't stop the next. Random weights stand
in for models of InternLM2-1.8B's size (tools/random_checkpoint.py): speed and memory don't depend on values.
"""

import argparse
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
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
QUESTION = "What is the capital of France?"
LONG_PROMPT = " ".join(
    f"Line {n}: the engine turns, the gauge is read, the value is written down." for n in range(8)
)
TOKENS = 256

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
            result["output"] = done.stdout[-3000:]
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
        self.lanes_file.write_text(LANES.format(work=self.work))
        return {path.name: path.stat().st_size for path in self.work.glob("*/model.safetensors")}

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
        """Decode speed of the turbomind lane over HTTP against lmdeploy.pipeline, A B A, 5 requests each."""
        lane = [*self._lane_speeds()]
        pipeline = json.loads(
            subprocess.run(
                [sys.executable, "-c", PIPELINE, str(self.work / "internlm2-1.8b"), LONG_PROMPT, str(TOKENS)],
                cwd=ROOT,
                env=self.base,
                capture_output=True,
                text=True,
                timeout=300,
                check=True,
            ).stdout.splitlines()[-1]
        )
        lane += self._lane_speeds()
        return {
            "lane_decode_tok_per_s": lane,
            "pipeline_decode_tok_per_s": pipeline,
            "ratio_of_medians": statistics.median(lane) / statistics.median(pipeline),
        }

    def _lane_speeds(self) -> list[float]:
        self.core("engines", "start", "turbomind", "--json", sized=True)
        fixed = ["--lane", "turbomind", "--max-tokens", str(TOKENS), "--fixed-length", "--json"]
        runs = [self.core("chat", LONG_PROMPT, *fixed, sized=True) for _ in range(6)][1:]
        self.core("engines", "stop", "turbomind", sized=True)
        return [run["output"]["lanes"][0]["decode_tok_per_s"] for run in runs]

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
import json, sys, time
from lmdeploy import GenerationConfig, TurbomindEngineConfig, pipeline
if __name__ == "__main__":
    path, prompt, tokens = sys.argv[1], sys.argv[2], int(sys.argv[3])
    engine = TurbomindEngineConfig(
        dtype="float16", session_len=4096, max_batch_size=64, cache_max_entry_count=0.4
    )
    speeds = []
    with pipeline(path, backend_config=engine) as pipe:
        sampling = GenerationConfig(max_new_tokens=tokens, do_sample=False, ignore_eos=True)
        for _ in range(6):
            first = None
            for part in pipe.stream_infer(prompt, gen_config=sampling):
                if part.text and first is None:
                    first, first_tokens = time.perf_counter(), part.generate_token_len
                if part.text:
                    last, last_tokens = time.perf_counter(), part.generate_token_len
            speeds.append((last_tokens - first_tokens) / (last - first))
    print(json.dumps(speeds[1:]))
"""


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
