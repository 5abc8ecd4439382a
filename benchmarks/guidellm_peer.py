"""guidellm 0.8.1 against the scripted server, in a virtual environment of its own."""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
VENV = ROOT / ".venv-guidellm"
PROGRAM = VENV / "bin" / "guidellm"
REQUIREMENT = "guidellm==0.8.1"


@dataclass(frozen=True, kw_only=True)
class PeerRun:
    """What guidellm reports of one run, in our words."""

    ttft_s: tuple[float, ...]
    tpot_s: tuple[float, ...]
    """Its `inter_token_latency_ms`, which is our TPOT; its own "time per output token" includes the first."""
    chunks: int
    chunks_per_s: float
    """From the first request's start to the last chunk, all requests together."""
    started_ns: int
    """`time.perf_counter_ns` when its process was started."""


def install() -> None:
    """Make its environment (several GB, since it brings torch) unless it is there."""
    if PROGRAM.exists():
        return
    subprocess.run([sys.executable, "-m", "venv", str(VENV)], check=True)
    subprocess.run([str(VENV / "bin" / "pip"), "install", "--quiet", REQUIREMENT], check=True)


def run(url: str, model: str, *, streams: int, requests: int) -> PeerRun:
    """Send `requests` requests, `streams` at a time."""
    with tempfile.TemporaryDirectory() as folder:
        report, scenario = Path(folder) / "report.json", Path(folder) / "scenario.json"
        scenario.write_text(json.dumps(_scenario(url, model, streams, requests, report)), "utf-8")
        started_ns = time.perf_counter_ns()
        subprocess.run(
            [str(PROGRAM), "run", "--config", str(scenario), "--disable-console"],
            check=True,
            capture_output=True,
            cwd=folder,
            timeout=300,
        )
        (benchmark,) = json.loads(report.read_text("utf-8"))["benchmarks"]
    return _read(benchmark["requests"]["successful"], started_ns)


def _scenario(url: str, model: str, streams: int, requests: int, report: Path) -> dict[str, Any]:
    return {
        "metadata": {"name": "scripted"},
        "spec": {
            "backend": {
                "kind": "openai_http",
                "target": url.removesuffix("/v1"),
                "model": model,
                "max_tokens": 1_000_000,
            },
            "profile": {"kind": "concurrent", "streams": [streams]},
            "constraints": [{"kind": "max_requests", "count": requests}],
            "data": [{"kind": "in_memory_item_list", "data": ["Go."] * requests, "column_name": "prompt"}],
            "outputs": [{"kind": "json", "path": str(report)}],
        },
    }


def _read(done: list[Mapping[str, Any]], started_ns: int) -> PeerRun:
    timings = [request["info"]["timings"] for request in done]
    chunks = sum(timing["token_iterations"] for timing in timings)
    first_s = min(timing["request_start"] for timing in timings)
    last_s = max(timing["last_token_iteration"] for timing in timings)
    return PeerRun(
        ttft_s=tuple(request["time_to_first_token_ms"] / 1e3 for request in done),
        tpot_s=tuple(request["inter_token_latency_ms"] / 1e3 for request in done),
        chunks=chunks,
        chunks_per_s=chunks / (last_s - first_s),
        started_ns=started_ns,
    )
