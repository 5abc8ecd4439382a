"""How exact the meter is, how much it takes, and how fast it starts: against a server with known timings.

    python benchmarks/meter.py [--out FILE.json] [--without-guidellm]

Errors are given twice: against the schedule that the server was told to keep, counted from the arrival of a
request's last byte, and against what it really did by its own timestamps: a server that writes late on a busy
machine is not the client's error. Connecting is outside of both, here as in guidellm 0.8.1, whose figures
come from the same scripts in the same run; it gets a virtual environment of its own. Without it, the packages
of requirements.txt are enough.
"""

import argparse
import asyncio
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks import guidellm_peer  # noqa: E402
from core.chat_api.answer import Answer  # noqa: E402
from core.chat_api.client import Timeouts, open_session, send  # noqa: E402
from core.domain.conversation import Message, Role, Sampling  # noqa: E402
from core.domain.specs import Dialect, Endpoint, EndpointSpec, EngineKind, LaneSpec  # noqa: E402
from core.domain.timing import Timing  # noqa: E402
from core.domain.turns import Mode, RequestPlan, RequestRecord, TurnPlan  # noqa: E402
from core.meter.link import MeterLink  # noqa: E402
from core.settings import Settings  # noqa: E402

MESSAGES = (Message(Role.USER, "Go."),)
SAMPLING = Sampling(max_tokens=131_072)
CAPACITY_STREAMS = 8
CAPACITY_CHUNKS = 50_000
METER, PEER = "LMDyno", "guidellm 0.8.1"


@dataclass(frozen=True, kw_only=True)
class Case:
    """Streams at the same time, what each is served, how often, and the errors that are allowed."""

    name: str
    streams: int
    first_chunk_s: float
    interval_s: float
    chunks: int
    repeats: int
    ttft_limit_s: float
    tpot_limit_ratio: float

    @property
    def model(self) -> str:
        return json.dumps(
            {
                "dialect": "lmdeploy",
                "chunks": self.chunks,
                "first_chunk_s": self.first_chunk_s,
                "interval_s": self.interval_s,
            }
        )


CASES = (
    Case(
        name="one stream",
        streams=1,
        first_chunk_s=0.1,
        interval_s=0.01,
        chunks=100,
        repeats=12,
        ttft_limit_s=0.003,
        tpot_limit_ratio=0.01,
    ),
    Case(
        name="32 streams of 300 chunks/s",
        streams=32,
        first_chunk_s=0.1,
        interval_s=1 / 300,
        chunks=900,
        repeats=3,
        ttft_limit_s=0.010,
        tpot_limit_ratio=0.02,
    ),
)


@contextmanager
def scripted_server() -> Iterator[str]:
    """The scripted server in a process of its own; yields its base URL."""
    command = [sys.executable, "-m", "tests.scripted_server", "--port", "0"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    try:
        assert server.stdout is not None
        yield server.stdout.readline().strip()
    finally:
        server.terminate()
        server.communicate()


@contextmanager
def meter() -> Iterator[MeterLink]:
    """The meter's own process, as the dashboard runs it, with a store in a folder that is thrown away."""
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        link = MeterLink(
            Settings(home=home, lanes_file=home / "lanes.toml", database_url=f"sqlite:///{home / 'runs.db'}")
        )
        try:
            yield link
        finally:
            link.close()


def seen_by(url: str) -> list[dict[str, Any]]:
    """What the server saw of each request so far."""
    with urllib.request.urlopen(f"{url.removesuffix('/v1')}/requests") as answer:
        return json.loads(answer.read())


def plan_for(url: str, model: str, streams: int) -> TurnPlan:
    spec = EndpointSpec(url=url, model=model, dialect=Dialect.LMDEPLOY)
    return TurnPlan(
        conversation_id="benchmark",
        prompt="Go.",
        sampling=SAMPLING,
        mode=Mode.TOGETHER,
        requests=tuple(
            RequestPlan(
                lane=LaneSpec(name=f"s{number}", kind=EngineKind.ENDPOINT, endpoint=spec), messages=MESSAGES
            )
            for number in range(streams)
        ),
    )


def run_turn(link: MeterLink, plan: TurnPlan) -> list[RequestRecord]:
    """Run a turn with a follower for each request, as a page would."""
    records: dict[str, RequestRecord] = {}

    def follow(request_id: str) -> None:
        for update in link.follow(plan.id, request_id):
            if update and update.record:
                records[request_id] = update.record

    link.start(plan)
    followers = [threading.Thread(target=follow, args=(request.id,)) for request in plan.requests]
    for follower in followers:
        follower.start()
    for follower in followers:
        follower.join()
    return [records[request.id] for request in plan.requests]


def measure_accuracy(url: str, case: Case) -> dict[str, Any]:
    timings: list[Timing] = []
    with meter() as link:
        run_turn(link, plan_for(url, "hello", 1))
        known = len(seen_by(url))
        for _ in range(case.repeats):
            records = run_turn(link, plan_for(url, case.model, case.streams))
            timings += [record.timing for record in records if record.timing]
    ttft_s = [timing.ttft_s for timing in timings if timing.ttft_s is not None]
    tpot_s = [timing.tpot_s for timing in timings if timing.tpot_s is not None]
    return summary(case, ttft_s, tpot_s, seen_by(url)[known:])


def summary(
    case: Case, ttft_s: Sequence[float], tpot_s: Sequence[float], seen: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """Errors against the schedule, and against what the server saw and wrote: percentile by percentile, since
    guidellm does not tell which request is which."""
    if not len(ttft_s) == len(tpot_s) == len(seen) == case.streams * case.repeats:
        raise RuntimeError(f"{case.name}: not every request was answered")
    written_ttft_s = [(one["chunk_ns"][0] - one["received_ns"]) / 1e9 for one in seen]
    written_tpot_s = [(one["chunk_ns"][-1] - one["chunk_ns"][0]) / 1e9 / (case.chunks - 1) for one in seen]
    return {
        "n": len(ttft_s),
        "ttft_p50_error_s": statistics.median(ttft_s) - case.first_chunk_s,
        "ttft_p95_error_s": percentile(ttft_s, 95) - case.first_chunk_s,
        "ttft_p50_error_to_written_s": statistics.median(ttft_s) - statistics.median(written_ttft_s),
        "ttft_p95_error_to_written_s": percentile(ttft_s, 95) - percentile(written_ttft_s, 95),
        "tpot_p50_error_ratio": statistics.median(tpot_s) / case.interval_s - 1,
        "tpot_worst_error_ratio": max((t / case.interval_s - 1 for t in tpot_s), key=abs),
        "tpot_p50_error_to_written_ratio": statistics.median(tpot_s) / statistics.median(written_tpot_s) - 1,
    }


def capacity_model() -> str:
    return json.dumps({"dialect": "lmdeploy", "chunks": CAPACITY_CHUNKS})


def measure_capacity(url: str) -> dict[str, Any]:
    """Chunks that the client takes in when nothing is delayed: by the clock, and by its own CPU time."""
    answers = [Answer(Dialect.LMDEPLOY) for _ in range(CAPACITY_STREAMS)]
    endpoint = Endpoint(url=url, model=capacity_model(), dialect=Dialect.LMDEPLOY)

    async def sanitise() -> None:
        async with open_session() as session:
            await asyncio.gather(
                *(send(session, endpoint, MESSAGES, SAMPLING, answer, Timeouts()) for answer in answers)
            )

    cpu_s, wall_s = time.process_time(), time.perf_counter()
    asyncio.run(sanitise())
    cpu_s, wall_s = time.process_time() - cpu_s, time.perf_counter() - wall_s
    chunks = sum(len(timing.chunk_ns) for answer in answers if (timing := answer.timing()))
    return {"chunks": chunks, "chunks_per_s": chunks / wall_s, "chunks_per_core_s": chunks / cpu_s}


def measure_start(url: str) -> dict[str, Any]:
    """From starting the meter's process to its first request's arrival, and that request's TTFT error."""
    with meter() as link:
        started_ns = time.perf_counter_ns()
        (record,) = run_turn(link, plan_for(url, CASES[0].model, 1))
    sent_s = (seen_by(url)[-1]["received_ns"] - started_ns) / 1e9
    assert record.ttft_s is not None
    return {"first_request_s": sent_s, "first_ttft_error_s": record.ttft_s - CASES[0].first_chunk_s}


def measure_peer(url: str) -> dict[str, Any]:
    """The same scripts, sent by guidellm."""
    guidellm_peer.install()
    figures: dict[str, Any] = {}
    for case in CASES:
        known = len(seen_by(url))
        peer = guidellm_peer.run(url, case.model, streams=case.streams, requests=case.streams * case.repeats)
        seen = seen_by(url)[known:]
        figures[case.name] = summary(case, peer.ttft_s, peer.tpot_s, seen)
        if "start" not in figures:
            first_ns = seen[0]["received_ns"]
            figures["start"] = {"first_request_s": (first_ns - peer.started_ns) / 1e9}
    peer = guidellm_peer.run(url, capacity_model(), streams=CAPACITY_STREAMS, requests=CAPACITY_STREAMS)
    figures["capacity"] = {"chunks": peer.chunks, "chunks_per_s": peer.chunks_per_s}
    return figures


def measure_meter(url: str) -> dict[str, Any]:
    figures: dict[str, Any] = {"start": measure_start(url)}
    for case in CASES:
        figures[case.name] = measure_accuracy(url, case)
    figures["capacity"] = measure_capacity(url)
    return figures


def rows(figures: dict[str, dict[str, Any]]) -> Iterator[tuple[str, str, str, str]]:
    """The table: what, ours, guidellm's, and what is asked of ours."""

    def pair(case: str, key: str, text: Callable[[float], str]) -> tuple[str, str]:
        found = [figures.get(who, {}).get(case, {}).get(key) for who in (METER, PEER)]
        ours, theirs = ("–" if value is None else text(value) for value in found)
        return ours, theirs

    for case in CASES:
        limits = {
            "ttft_p50_error_s": ("TTFT p50 error", ms, f"±{ms(case.ttft_limit_s)}"),
            "ttft_p50_error_to_written_s": ("TTFT p50 error to what was written", ms, ""),
            "ttft_p95_error_s": ("TTFT p95 error", ms, ""),
            "ttft_p95_error_to_written_s": ("TTFT p95 error to what was written", ms, ""),
            "tpot_p50_error_ratio": ("TPOT p50 error", percent, f"±{percent(case.tpot_limit_ratio)}"),
            "tpot_p50_error_to_written_ratio": ("TPOT p50 error to what was written", percent, ""),
            "tpot_worst_error_ratio": ("TPOT worst error", percent, ""),
        }
        for key, (name, text, limit) in limits.items():
            yield (f"{case.name}: {name}", *pair(case.name, key, text), limit)
    yield ("capacity, chunks/s in all", *pair("capacity", "chunks_per_s", whole), "")
    yield ("capacity, chunks/s and core", *pair("capacity", "chunks_per_core_s", whole), "≥ 60,000")
    yield ("process start → first request", *pair("start", "first_request_s", "{:.2f} s".format), "< 1 s")
    yield ("first request's TTFT error", *pair("start", "first_ttft_error_s", ms), "")


def within_limits(figures: dict[str, Any]) -> bool:
    return (
        all(
            abs(figures[case.name]["ttft_p50_error_s"]) <= case.ttft_limit_s
            and abs(figures[case.name]["tpot_p50_error_ratio"]) <= case.tpot_limit_ratio
            for case in CASES
        )
        and figures["capacity"]["chunks_per_core_s"] >= 60_000
        and figures["start"]["first_request_s"] < 1
    )


def percentile(values: Sequence[float], rank: float) -> float:
    """Linear interpolation between the two nearest, as NumPy does."""
    ordered = sorted(values)
    place = (len(ordered) - 1) * rank / 100
    low, high = math.floor(place), math.ceil(place)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def ms(seconds: float) -> str:
    return f"{seconds * 1e3:.2f} ms"


def percent(ratio: float) -> str:
    return f"{ratio:.2%}"


def whole(number: float) -> str:
    return f"{number:,.0f}"


def this_machine() -> dict[str, Any]:
    """Where figures are from; to be asked before measuring, since it tells the load."""
    return {
        "cores": os.cpu_count(),
        "load_before": os.getloadavg(),
        "python": platform.python_version(),
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
    }


def told(machine: dict[str, Any]) -> str:
    return (
        f"{machine['cores']} cores, load {machine['load_before'][0]:.1f} before, Python {machine['python']}"
    )


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, help="write the figures to this JSON file")
    parser.add_argument("--without-guidellm", action="store_true", help="measure LMDyno alone")
    options = parser.parse_args()

    machine = this_machine()
    with scripted_server() as url:
        figures = {METER: measure_meter(url)}
        if not options.without_guidellm:
            figures[PEER] = measure_peer(url)
    for row in (("", METER, PEER, "asked for"), *rows(figures)):
        print("{:64}{:>12}{:>16}{:>12}".format(*row))
    print(f"\n{told(machine)}")
    if options.out:
        options.out.write_text(json.dumps({"machine": machine, **figures}, indent=2) + "\n", "utf-8")
    return 0 if within_limits(figures[METER]) else 1


if __name__ == "__main__":
    sys.exit(main())
