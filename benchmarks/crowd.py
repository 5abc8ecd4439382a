"""Many visitors at once: what the dashboard and its meter do while each of them follows two lanes.

    python -m benchmarks.crowd [--sessions 64] [--minutes 10] [--soak MINUTES] [--out FILE.json]

Each visitor is a websocket session that does what Streamlit's page does (`benchmarks/page_session.py`); no
browser draws. The lanes are scripted servers, whose schedule is known: TPOT of each answer is held against
it. Meanwhile further visitors open the page, and the processes' CPU time and memory are read.

`--soak` lets two visitors ask short questions one after another instead, and tells what memory grows by for
each 1,000 turns.
"""

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import aiohttp
import psutil

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.page_session import PageSession  # noqa: E402
from core.store.turns import Store  # noqa: E402
from tests.e2e.e2e_dashboard import started_dashboard  # noqa: E402

LANES = {"quick": 0.012, "steady": 0.020}
"""Lanes, and the seconds between their chunks of one token."""
FIRST_CHUNK_S = 0.15
_PARAGRAPH_WORDS = 60
_SHORT_WORDS = 40
_WARM_UP_S = 5.0
_OPEN_EVERY_S = 5.0
_LOOK_S = 1.0


def scenarios(seconds: float) -> dict[str, dict[str, Any]]:
    """What the lanes answer: text for so long, in paragraphs."""
    made = {}
    for lane, interval_s in LANES.items():
        count = max(_SHORT_WORDS, round(seconds / interval_s))
        words = (f"{'' if place % _PARAGRAPH_WORDS else chr(10) * 2}word{place}" for place in range(count))
        made[lane] = {
            "text": " ".join(words).strip(),
            "first_chunk_s": FIRST_CHUNK_S,
            "interval_s": interval_s,
        }
    return made


@contextmanager
def server(answers: dict[str, dict[str, Any]]) -> Iterator[str]:
    """The lanes' server, in a process of its own; yields its URL."""
    command = [sys.executable, "-m", "tests.scripted_server", "--port", "0", "--scenarios"]
    process = subprocess.Popen([*command, json.dumps(answers)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
    finally:
        process.terminate()
        process.wait(10)


def lanes_file(url: str) -> str:
    return "".join(
        f'[lanes.{lane}]\nengine = "endpoint"\nurl = "{url}"\nmodel = "{lane}"\n' for lane in LANES
    )


class Processes:
    """The dashboard's process and its meter's: CPU time and memory between two looks."""

    def __init__(self, dashboard_pid: int) -> None:
        self.dashboard = psutil.Process(dashboard_pid)
        self.meter = next(
            child for child in self.dashboard.children(recursive=True) if "core.meter" in child.cmdline()
        )

    def look(self) -> dict[str, float]:
        found = {"at_s": time.perf_counter()}
        for name, process in (("dashboard", self.dashboard), ("meter", self.meter)):
            times = process.cpu_times()
            found[f"{name}_cpu_s"] = times.user + times.system
            found[f"{name}_mb"] = process.memory_info().rss / 1e6
        return found


def shares(first: dict[str, float], last: dict[str, float]) -> dict[str, float]:
    """Cores that each process took between two looks."""
    passed_s = last["at_s"] - first["at_s"]
    return {
        name: (last[f"{name}_cpu_s"] - first[f"{name}_cpu_s"]) / passed_s for name in ("dashboard", "meter")
    }


async def crowd(base_url: str, pid: int, sessions: int, seconds: float) -> dict[str, Any]:
    """All visitors ask once, and follow for so long."""
    async with aiohttp.ClientSession() as http:
        idle = PageSession(http, base_url, "chat")
        alone_s = [await idle.open()]
        processes = Processes(pid)
        visitors = [PageSession(http, base_url, "chat") for _ in range(sessions)]
        for visitor in visitors:
            await visitor.open()
            await visitor.choose("Together", "Together")
        await idle.close()
        empty = processes.look()
        for visitor in visitors:
            await visitor.ask("Go on.")
        await asyncio.sleep(_WARM_UP_S)
        looks, opened_s = [processes.look()], []
        while looks[-1]["at_s"] - looks[0]["at_s"] < seconds - 2 * _WARM_UP_S:
            further = PageSession(http, base_url, "chat")
            opened_s.append(await further.open())
            await further.close()
            await asyncio.sleep(max(0.0, _OPEN_EVERY_S - opened_s[-1]))
            looks.append(processes.look())
        for visitor in visitors:
            await visitor.finished(3, seconds + 120)
        exceptions = [text for visitor in visitors for text in visitor.exceptions]
        received = sum(visitor.received["delta"] for visitor in visitors)
        for visitor in visitors:
            await visitor.close()
    cores = shares(looks[0], looks[-1])
    return {
        "sessions": sessions,
        "followed_s": looks[-1]["at_s"] - looks[0]["at_s"],
        "dashboard_cores": cores["dashboard"],
        "dashboard_cores_per_session": cores["dashboard"] / sessions,
        "meter_cores": cores["meter"],
        "page_open_alone_s": alone_s[0],
        "page_open_s": opened_s,
        "deltas_per_session_s": received / sessions / seconds,
        "dashboard_mb": [round(look["dashboard_mb"], 1) for look in (empty, *looks)],
        "dashboard_mb_per_session_min": (looks[-1]["dashboard_mb"] - looks[0]["dashboard_mb"])
        / sessions
        / ((looks[-1]["at_s"] - looks[0]["at_s"]) / 60),
        "meter_mb": [round(look["meter_mb"], 1) for look in (empty, *looks)],
        "exceptions": exceptions,
    }


def timings(home: Path, sessions: int) -> dict[str, Any]:
    """TTFT and TPOT of all answers in the store against the schedule."""
    store = Store(f"sqlite:///{home / 'lmdyno.db'}")
    records = [
        record
        for summary in store.conversations(limit=10 * sessions)
        for turn in store.conversation(summary.id)
        for record in turn.requests
    ]
    store.close()
    told: dict[str, Any] = {"answers": len(records), "failed": sum(r.error is not None for r in records)}
    for lane, interval_s in LANES.items():
        tpot = sorted(r.tpot_s for r in records if r.lane.name == lane and r.tpot_s is not None)
        ttft = sorted(r.ttft_s for r in records if r.lane.name == lane and r.ttft_s is not None)
        if tpot:
            p95 = tpot[min(len(tpot) - 1, round(0.95 * (len(tpot) - 1)))]
            told[lane] = {
                "n": len(tpot),
                "tpot_p50_ms": statistics.median(tpot) * 1e3,
                "tpot_p95_ms": p95 * 1e3,
                "tpot_p95_error_ratio": p95 / interval_s - 1,
                "ttft_p50_ms": statistics.median(ttft) * 1e3,
                "ttft_max_ms": ttft[-1] * 1e3,
            }
    return told


async def soak(base_url: str, pid: int, seconds: float) -> dict[str, Any]:
    """Two visitors ask one short question after another, each in a new session every 50 turns."""
    turns, looks = 0, []
    deadline = time.perf_counter() + seconds
    async with aiohttp.ClientSession() as http:

        async def visit() -> None:
            nonlocal turns
            while time.perf_counter() < deadline:
                visitor = PageSession(http, base_url, "chat")
                await visitor.open()
                await visitor.choose("Together", "Together")
                for _ in range(50):
                    await visitor.ask_and_wait("Go on.", 120)
                    turns += 1
                    if time.perf_counter() >= deadline:
                        break
                await visitor.close()

        visits = [asyncio.create_task(visit()) for _ in range(2)]
        while not all(task.done() for task in visits):
            await asyncio.sleep(_LOOK_S)
            if turns > 20:
                looks.append({"turns": turns, **Processes(pid).look()})
        await asyncio.gather(*visits)
    # The first third fills caches and pools, which is no growth.
    settled = looks[len(looks) // 3 :]
    grown = settled[-1]["turns"] - settled[0]["turns"]
    return {
        "turns": turns,
        "counted_turns": grown,
        **{
            f"{name}_mb_per_1000_turns": (settled[-1][f"{name}_mb"] - settled[0][f"{name}_mb"]) / grown * 1000
            for name in ("dashboard", "meter")
        },
        "dashboard_mb": [round(look["dashboard_mb"], 1) for look in looks[:: max(1, len(looks) // 20)]],
        "meter_mb": [round(look["meter_mb"], 1) for look in looks[:: max(1, len(looks) // 20)]],
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sessions", type=int, default=64)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--soak", type=float, metavar="MINUTES", help="short turns for so long, instead")
    parser.add_argument("--out", type=Path, help="write the figures as JSON")
    options = parser.parse_args()
    seconds = 60 * (options.soak or options.minutes)
    with ExitStack() as held:
        home = Path(held.enter_context(tempfile.TemporaryDirectory(prefix="lmdyno-crowd-")))
        url = held.enter_context(server(scenarios(0 if options.soak else seconds)))
        dashboard = held.enter_context(started_dashboard(home, lanes_file(url)))
        pid = dashboard.process.pid
        if options.soak:
            figures = asyncio.run(soak(dashboard.url, pid, seconds))
        else:
            figures = asyncio.run(crowd(dashboard.url, pid, options.sessions, seconds))
        figures |= {"load_average": os.getloadavg(), "cores": os.cpu_count()}
        dashboard.end()
        figures["timings"] = timings(home, options.sessions)
    text = json.dumps(figures, indent=2)
    sys.stdout.write(f"{text}\n")
    if options.out:
        options.out.write_text(text, "utf-8")


if __name__ == "__main__":
    main()
