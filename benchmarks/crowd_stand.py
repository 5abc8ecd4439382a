"""What crowds and soaks stand on: scripted lanes, visitors in processes of their own, and what to read off.

The lanes are scripted servers whose schedule is known, one process each. Visitors run in other processes, so
that neither the dashboard nor its meter waits for them.
"""

import json
import os
import queue
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from core.store.turns import Store

ROOT = Path(__file__).resolve().parents[1]
LANES = {"quick": 0.012, "steady": 0.020}
"""Lanes, and the seconds between their chunks of one token."""
FIRST_CHUNK_S = 0.15
_PARAGRAPH_WORDS = 60
_SHORT_WORDS = 40
_END_S = 30.0


def scenarios(seconds: float, *, at_once: bool = False) -> dict[str, dict[str, Any]]:
    """What the lanes answer: text for so long, in paragraphs; or all of it at once."""
    made = {}
    for lane, interval_s in LANES.items():
        count = max(_SHORT_WORDS, round(seconds / interval_s))
        words = (f"{'' if place % _PARAGRAPH_WORDS else chr(10) * 2}word{place}" for place in range(count))
        made[lane] = {
            "text": " ".join(words).strip(),
            "first_chunk_s": 0.0 if at_once else FIRST_CHUNK_S,
            "interval_s": 0.0 if at_once else interval_s,
        }
    return made


def most_tokens(seconds: float) -> int:
    """Of one answer of `scenarios`."""
    return max(_SHORT_WORDS, round(seconds / min(LANES.values())))


@contextmanager
def server(answers: dict[str, dict[str, Any]]) -> Iterator[str]:
    """A scripted server in a process of its own; yields its URL."""
    command = [sys.executable, "-m", "tests.scripted_server", "--port", "0", "--scenarios"]
    process = subprocess.Popen([*command, json.dumps(answers)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
    finally:
        process.terminate()
        process.wait(10)


@contextmanager
def servers(answers: dict[str, dict[str, Any]]) -> Iterator[dict[str, str]]:
    """A server for each lane; yields their URLs."""
    with ExitStack() as held:
        yield {lane: held.enter_context(server({lane: answer})) for lane, answer in answers.items()}


def lanes_file(urls: dict[str, str] | str) -> str:
    """A lanes file with the lanes at these URLs, or all at one."""
    of_lane = urls if isinstance(urls, dict) else dict.fromkeys(LANES, urls)
    return "".join(
        f'[lanes.{lane}]\nengine = "endpoint"\nurl = "{url}"\nmodel = "{lane}"\n'
        for lane, url in of_lane.items()
    )


@contextmanager
def on_cores(cores: Sequence[int]) -> Iterator[None]:
    """Processes that are started meanwhile run on these cores alone; on all if there are none."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores or before)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@dataclass
class Visitors:
    """Processes that each visit the dashboard with some sessions (`benchmarks/crowd_visitors.py`)."""

    processes: list["subprocess.Popen[str]"] = field(default_factory=list)
    news: "queue.Queue[dict[str, Any]]" = field(default_factory=queue.Queue)
    turns: int = 0
    asking: int = 0
    """Sessions that have asked for the first time."""
    opened_s: list[float] = field(default_factory=list)
    received: Counter[str] = field(default_factory=Counter)
    exceptions: list[str] = field(default_factory=list)

    def start(self, arguments: Sequence[str]) -> None:
        process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.crowd_visitors", *arguments],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.processes.append(process)
        threading.Thread(target=self._read, args=(process,), daemon=True).start()

    def _read(self, process: "subprocess.Popen[str]") -> None:
        assert process.stdout is not None
        for line in process.stdout:
            self.news.put(json.loads(line))

    def take(self) -> None:
        """Count what the processes told since."""
        with suppress(queue.Empty):
            while True:
                told = self.news.get_nowait()
                self.turns += told.get("turns", 0)
                self.asking += told.get("asking", 0)
                self.opened_s += told.get("opened_s", [])
                self.exceptions += told.get("exceptions", [])
                self.received.update(told.get("received", {}))

    def end(self) -> None:
        for process in self.processes:
            if process.stdin:
                process.stdin.close()  # tells it to leave
        deadline = time.monotonic() + _END_S
        for process in self.processes:
            try:
                process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self.take()


class Processes:
    """The dashboard's process and its meter's: CPU time and memory between two looks."""

    def __init__(self, dashboard_pid: int) -> None:
        self.dashboard = psutil.Process(dashboard_pid)
        self.meter = next(
            child
            for child in self.dashboard.children(recursive=True)
            if "core.meter.process" in child.cmdline()
        )

    def look(self) -> dict[str, float]:
        seen = {"at_s": time.perf_counter()}
        for name, process in (("dashboard", self.dashboard), ("meter", self.meter)):
            times = process.cpu_times()
            seen[f"{name}_cpu_s"] = times.user + times.system
            seen[f"{name}_mb"] = process.memory_info().rss / 1e6
        return seen


def shares(first: dict[str, float], last: dict[str, float]) -> dict[str, float]:
    """Cores that each process took between two looks."""
    passed_s = last["at_s"] - first["at_s"]
    return {
        name: (last[f"{name}_cpu_s"] - first[f"{name}_cpu_s"]) / passed_s for name in ("dashboard", "meter")
    }


def timings(home: Path, most: int) -> dict[str, Any]:
    """TTFT and TPOT of the answers in the store against the schedule."""
    store = Store(f"sqlite:///{home / 'lmdyno.db'}")
    failed, answers, stopped = Counter[str](), 0, 0
    tpot_s: dict[str, list[float]] = {lane: [] for lane in LANES}
    ttft_s: dict[str, list[float]] = {lane: [] for lane in LANES}
    for summary in store.conversations(limit=most):
        for turn in store.conversation(summary.id):
            for record in turn.requests:
                answers += 1
                stopped += record.finish_reason == "cancelled"
                if record.error is not None:
                    failed[record.error.code] += 1
                stamps = record.timing.chunk_ns if record.timing else ()
                if len(stamps) > 1:  # of a stopped answer no token count is known, but each chunk is a token
                    mean_ns = (stamps[-1] - stamps[0]) / (len(stamps) - 1)
                    tpot_s[record.lane.name].append(mean_ns / 1e9)
                if record.ttft_s is not None:
                    ttft_s[record.lane.name].append(record.ttft_s)
    store.close()
    told: dict[str, Any] = {"answers": answers, "stopped_at_the_end": stopped, "failed": dict(failed)}
    for lane, interval_s in LANES.items():
        if tpot_s[lane]:
            p95 = quantile(tpot_s[lane], 0.95)
            told[lane] = {
                "n": len(tpot_s[lane]),
                "tpot_p50_ms": statistics.median(tpot_s[lane]) * 1e3,
                "tpot_p95_ms": p95 * 1e3,
                "tpot_p95_error_ratio": p95 / interval_s - 1,
                "tpot_max_ms": max(tpot_s[lane]) * 1e3,
                "ttft_p50_ms": statistics.median(ttft_s[lane]) * 1e3,
                "ttft_p95_ms": quantile(ttft_s[lane], 0.95) * 1e3,
                "ttft_max_ms": max(ttft_s[lane]) * 1e3,
            }
    return told


def quantile(values: Sequence[float], share: float) -> float:
    """By the nearest rank."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, round(share * (len(ordered) - 1)))]


def report(text: str) -> None:
    """A line of progress with the time of day, at once."""
    sys.stderr.write(f"{time.strftime('%H:%M:%S')} {text}\n")
    sys.stderr.flush()
