"""LMDyno's load test and guidellm 0.8.1 side by side: the same server, the same scripts, one after the other.

    python benchmarks/guidellm_compare.py [--out FILE.json]

The server does what it is told at known times (tests/scripted_server.py), so besides each other's figures
there is the truth. The order alternates between repeats, and medians over requests and repeats are compared.
Exit code 1: the figures part by more than 2 % (where guidellm's are further than that from what the server
was told to do, LMDyno's are held against that), LMDyno drives fewer requests a second, or takes more than a
second to its first one.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks import guidellm_peer  # noqa: E402
from benchmarks.meter import scripted_server, seen_by, this_machine, told  # noqa: E402

REPEATS = 3
AGREEMENT = 0.02
START_LIMIT_S = 1.0


@dataclass(frozen=True, kw_only=True)
class Case:
    """What every request is served, how many of them, and how many at once."""

    name: str
    streams: int
    requests: int
    chunks: int
    first_chunk_s: float
    interval_s: float

    @property
    def model(self) -> str:
        return json.dumps(
            {"chunks": self.chunks, "first_chunk_s": self.first_chunk_s, "interval_s": self.interval_s}
        )

    @property
    def schedule(self) -> dict[str, float]:
        """The figures of a tool that is never late, under the names of `Figures`."""
        answer_s = self.first_chunk_s + (self.chunks - 1) * self.interval_s
        per_s = self.streams * self.chunks / answer_s
        return {"ttft_s": self.first_chunk_s, "tpot_s": self.interval_s, "per_s": per_s}


CASES = (
    Case(name="1 stream", streams=1, requests=10, chunks=100, first_chunk_s=0.1, interval_s=0.01),
    Case(name="32 streams", streams=32, requests=96, chunks=300, first_chunk_s=0.1, interval_s=1 / 300),
    Case(
        name="32 streams, long answers",
        streams=32,
        requests=64,
        chunks=1500,
        first_chunk_s=0.1,
        interval_s=1 / 300,
    ),
)
SHORT = Case(name="requests a second", streams=64, requests=2000, chunks=2, first_chunk_s=0.0, interval_s=0.0)


@dataclass(frozen=True, kw_only=True)
class Figures:
    """One run of one tool; latencies are medians over its requests."""

    ttft_s: float
    tpot_s: float | None
    per_s: float
    """Chunks a second, all requests together."""
    start_s: float
    """From starting the tool's process to the arrival of its first request at the server."""


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path)
    out = parser.parse_args().out
    guidellm_peer.install()
    machine = this_machine()
    with scripted_server() as url:
        found = {case.name: compare(url, case) for case in (*CASES, SHORT)}
    for case in CASES:
        found[case.name]["schedule"] = case.schedule
    problems = shortcomings(found)
    for name, figures in found.items():
        print(name)
        for tool, values in figures.items():
            print(f"  {tool:9}", "  ".join(f"{key} {value:.6g}" for key, value in values.items() if value))
    print("\n".join(problems) or "all within bounds")
    print(told(machine))
    if out:
        document = {"machine": machine, "figures": found, "problems": problems}
        out.write_text(json.dumps(document, indent=1) + "\n", "utf-8")
    return 1 if problems else 0


def compare(url: str, case: Case) -> dict[str, dict[str, Any]]:
    """The medians of both tools over the repeats."""
    tools: dict[str, Callable[[str, Case], Figures]] = {"lmdyno": run_lmdyno, "guidellm": run_guidellm}
    runs: dict[str, list[Figures]] = {name: [] for name in tools}
    for repeat in range(REPEATS):
        for name in list(tools)[:: 1 if repeat % 2 == 0 else -1]:
            runs[name].append(tools[name](url, case))
    return {
        name: {
            "ttft_s": statistics.median(run.ttft_s for run in done),
            "tpot_s": None if done[0].tpot_s is None else statistics.median(run.tpot_s or 0 for run in done),
            "per_s": statistics.median(run.per_s for run in done),
            "start_s": statistics.median(run.start_s for run in done),
        }
        for name, done in runs.items()
    }


def run_lmdyno(url: str, case: Case) -> Figures:
    known = len(seen_by(url))
    with tempfile.TemporaryDirectory() as folder:
        prompts, report = Path(folder) / "prompts.txt", Path(folder) / "report.json"
        prompts.write_text("Go.\n", "utf-8")
        started_ns = time.perf_counter_ns()
        subprocess.run(
            [
                *(sys.executable, "-m", "core", "bench", "--endpoint", url, "--model", case.model),
                *("--prompts", str(prompts), "--output-tokens", "100000", "--natural", "--warmup", "1"),
                *("--concurrency", str(case.streams), "--requests", str(case.requests)),
                *("--json", str(report), "--raw"),
            ],
            check=True,
            capture_output=True,
            cwd=ROOT,
            env={"LMDYNO_HOME": folder, "PATH": ""},
            timeout=300,
        )
        document = json.loads(report.read_text("utf-8"))
    (point,) = document["points"]
    timings = [request["timing"] for request in document["raw"]["requests"] if not request["warmup"]]
    span_s = (max(t["chunk_ns"][-1] for t in timings) - min(t["sent_ns"] for t in timings)) / 1e9
    return Figures(
        ttft_s=point["ttft_s"]["p50"],
        tpot_s=point["tpot_s"]["p50"] if case.interval_s else None,
        per_s=sum(len(timing["chunk_ns"]) for timing in timings) / span_s,
        start_s=start_s(url, known, started_ns),
    )


def run_guidellm(url: str, case: Case) -> Figures:
    known = len(seen_by(url))
    done = guidellm_peer.run(url, case.model, streams=case.streams, requests=case.requests)
    return Figures(
        ttft_s=statistics.median(done.ttft_s),
        tpot_s=statistics.median(done.tpot_s) if case.interval_s else None,
        per_s=done.chunks_per_s,
        start_s=start_s(url, known, done.started_ns),
    )


def start_s(url: str, known: int, started_ns: int) -> float:
    """Until the first request after the `known` ones; perf_counter is one clock for all processes."""
    return (seen_by(url)[known]["received_ns"] - started_ns) / 1e9


def shortcomings(found: dict[str, dict[str, dict[str, Any]]]) -> list[str]:
    problems = []
    for case in CASES:
        ours, theirs = found[case.name]["lmdyno"], found[case.name]["guidellm"]
        for figure, scheduled in case.schedule.items():
            is_theirs_off = abs(theirs[figure] / scheduled - 1) > AGREEMENT
            name, reference = ("the schedule", scheduled) if is_theirs_off else ("guidellm's", theirs[figure])
            apart = ours[figure] / reference - 1
            if abs(apart) > AGREEMENT:
                problems.append(f"{case.name}: {figure} is {apart:+.1%} off {name}")
    short = found[SHORT.name]
    if short["lmdyno"]["per_s"] < short["guidellm"]["per_s"]:
        problems.append("LMDyno drives fewer requests a second than guidellm")
    start = found[CASES[0].name]["lmdyno"]["start_s"]
    if start > START_LIMIT_S:
        problems.append(f"LMDyno takes {start:.2f} s to its first request")
    return problems


if __name__ == "__main__":
    sys.exit(main())
