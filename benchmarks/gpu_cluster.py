"""Engines on Ray nodes: one node dies during a load test and returns; written to one JSON file.

    python benchmarks/gpu_cluster.py --out FILE --model DIR [--work DIR] [--engine turbomind|transformers]

Two Ray nodes run on this machine's loopback addresses, with a lane on each. Everything else is what a user
does: `lmdyno engines`, `lmdyno chat` and `lmdyno bench`. During a load test of one lane the raylet of its
node is killed: the run and the time until LMDyno says so are written down, the other lane answers meanwhile,
and when the node is back the engine's process id tells whether it was taken over. The program ends only
processes that it started. `--engine transformers` runs on a machine without a GPU; its times say nothing of
one.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from gpu_steps import ROOT, Steps, tell

from tests.engines.ray_cluster import RayCluster, environment

NODES = {"on-near": "alpha", "on-far": "beta"}
LANE = """
[lanes.{name}]
engine = "{engine}"
model = "demo"
node = "{node}"
{more}
"""
SHORT = "What is the capital of Japan?"
START_S, TOLD_S, RETURN_S = 240.0, 30.0, 90.0


class Setting:
    """Two Ray nodes, and a home whose lanes file names them."""

    def __init__(self, work: Path, engine: str, model: Path) -> None:
        self.cluster = RayCluster()
        self._pids: set[int] = set()
        """Of all engines that were seen; each leads a process group of its own."""
        home, lanes_file = work / "home", work / "lanes.toml"
        home.mkdir(parents=True, exist_ok=True)
        more = "" if engine == "transformers" else 'cache_max_entry_count = 0.1\ndtype = "float16"\n'
        lanes = [LANE.format(name=name, node=node, engine=engine, more=more) for name, node in NODES.items()]
        first = [
            f'[cluster]\naddress = "{self.cluster.address}"\n',
            f'[models.demo]\ncheckpoint = "{model}"\n',
        ]
        lanes_file.write_text("\n".join(first + lanes), "utf-8")
        os.environ.update(environment(self.cluster.folder))
        os.environ.update(LMDYNO_HOME=str(home), LMDYNO_LANES=str(lanes_file))

    def lmdyno(self, *words: str, timeout_s: float = START_S) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, "-m", "core", *words],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=timeout_s,
        )

    def begin(self, *words: str) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [sys.executable, "-m", "core", *words],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def engines(self) -> dict[str, Any]:
        listed = json.loads(self.lmdyno("engines", "list", "--json", timeout_s=60).stdout)
        self._pids |= {engine["pid"] for engine in listed if engine["pid"]}
        return {engine["lane"]: engine for engine in listed}

    def nodes(self) -> Any:
        return json.loads(self.lmdyno("nodes", "--json", timeout_s=60).stdout or "null")

    def close(self) -> None:
        for name in NODES:
            self.lmdyno("engines", "stop", name, "--force", timeout_s=60)
        self.cluster.close()
        # An engine whose node is still away outlives it, and is named by nobody then.
        for pid in self._pids:
            with suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path("/tmp/lmdyno-cluster"))
    parser.add_argument("--engine", choices=("turbomind", "transformers"), default="turbomind")
    parser.add_argument("--limit-s", type=float, default=300.0)
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    steps = Steps(options.out, options.limit_s)
    setting = Setting(options.work, options.engine, options.model.resolve())
    try:
        going = steps.run("nodes", setting.cluster.start)
        going = going and steps.run("start", lambda: _start(setting))
        if going:
            steps.run("chat", lambda: _chat(setting))
            steps.run("bench", lambda: _bench(setting))
            steps.run("node dies", lambda: _kill(setting))
            steps.run("node returns", lambda: _return(setting))
    finally:
        setting.close()
    return 0 if going else 1


def _start(setting: Setting) -> dict[str, Any]:
    for name in ("on-near", "on-far"):
        done = setting.lmdyno("engines", "start", name, "--json")
        if done.returncode:
            raise RuntimeError((done.stdout + done.stderr)[-3000:])
    return setting.engines()


def _chat(setting: Setting) -> Any:
    done = setting.lmdyno("chat", SHORT, "--lane", "on-near", "--lane", "on-far", "--json")
    if done.returncode:
        raise RuntimeError((done.stdout + done.stderr)[-3000:])
    return json.loads(done.stdout)


def _bench(setting: Setting) -> dict[str, Any]:
    done = setting.lmdyno(
        "bench",
        "--lane",
        "on-near",
        "--lane",
        "on-far",
        "--concurrency",
        "4",
        "--requests",
        "20",
        "--output-tokens",
        "32",
    )
    return {"rc": done.returncode, "output": done.stdout[-6000:], "errors": done.stderr[-2000:]}


def _kill(setting: Setting) -> dict[str, Any]:
    before = setting.engines()
    run = Path(os.environ["LMDYNO_HOME"], "killed.json")
    asked = setting.begin(
        "bench", "--lane", "on-far", "--concurrency", "4", "--seconds", "25", "--json", str(run)
    )
    under_way_s = _until(lambda: setting.engines()["on-far"]["in_use"], time.monotonic(), TOLD_S)
    setting.cluster.nodes["beta"].raylet().send_signal(signal.SIGKILL)
    killed = time.monotonic()
    told_s = _until(lambda: setting.engines()["on-far"]["state"] == "failed", killed, TOLD_S)
    told = setting.engines()
    near = setting.lmdyno("chat", SHORT, "--lane", "on-near", "--json")
    refused = setting.lmdyno("chat", SHORT, "--lane", "on-far", "--json")
    asked_out, asked_err = asked.communicate(timeout=120)
    return {
        "before": before,
        "requests_under_way_after_s": under_way_s,
        "failed_after_s": told_s,
        "engines": told,
        "nodes": setting.nodes(),
        "load_test": {"rc": asked.returncode, "out": asked_out[-3000:], "err": asked_err[-1000:]},
        "near_answered": near.returncode == 0,
        "far_refused": {
            "rc": refused.returncode,
            "out": refused.stdout[-1500:],
            "err": refused.stderr[-1000:],
        },
    }


def _return(setting: Setting) -> dict[str, Any]:
    beta = setting.cluster.nodes["beta"]
    beta.kill()
    beta.start()
    began = time.monotonic()
    healthy_s = _until(lambda: setting.engines()["on-far"]["state"] == "healthy", began, RETURN_S)
    engines = setting.engines()
    answered = setting.lmdyno("chat", SHORT, "--lane", "on-far", "--json")
    return {
        "healthy_after_s": healthy_s,
        "engines": engines,
        "answered": answered.returncode == 0,
        "answer": answered.stdout[-2000:],
        "errors": answered.stderr[-1000:],
    }


def _until(condition: Callable[[], bool], began: float, at_most_s: float) -> float | None:
    """Seconds from `began` until the condition held; None if it didn't in time."""
    while time.monotonic() - began < at_most_s:
        if condition():
            return round(time.monotonic() - began, 2)
        time.sleep(0.2)
    tell("gave up waiting")
    return None


if __name__ == "__main__":
    sys.exit(main())
