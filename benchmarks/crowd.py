"""Many visitors at once: what the dashboard and its meter do while each of them follows two lanes.

    python -m benchmarks.crowd [--sessions 64] [--minutes 10] [--turn-seconds 120] [--load-cores N] [--out F]

Each visitor is a websocket session that does what Streamlit's page does (`benchmarks/page_session.py`); no
browser draws. They come one by one in half the time of a turn. A turn takes `--turn-seconds`, then its
visitor begins a new conversation and asks again. Visitors and scripted servers are processes of their own, on
the first `--load-cores` cores if so many are set aside. Meanwhile a further visitor opens the page every few
seconds, and the processes' CPU time and memory are read. Each look is a line on the standard error, and what
was seen so far is in `--out`; the run ends by itself, at the latest two minutes after the time that was asked
for. *Following* are the looks before the first visitor's turn ended.
"""

import argparse
import asyncio
import json
import os
import statistics
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import aiohttp

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.crowd_stand import (  # noqa: E402
    Processes,
    Visitors,
    lanes_file,
    most_tokens,
    on_cores,
    quantile,
    report,
    scenarios,
    servers,
    shares,
    timings,
)
from benchmarks.page_session import PageSession  # noqa: E402
from tests.e2e.e2e_dashboard import started_dashboard  # noqa: E402

_SESSIONS_PER_PROCESS = 16
_LOOK_S = 10.0
_LATE_S = 60.0
"""How long the measuring waits for those that are late; they come while it is measured already."""


async def opening_s(base_url: str) -> float:
    """How long the page takes to open for one more visitor."""
    async with aiohttp.ClientSession() as http:
        page = PageSession(http, base_url, "chat")
        took_s = await page.open()
        await page.close()
        return took_s


class Watch:
    """Looks at the processes, and what the looks say."""

    def __init__(self, url: str, pid: int, visitors: Visitors, options: argparse.Namespace) -> None:
        self._url = url
        self._visitors = visitors
        self._options = options
        self._alone_s = asyncio.run(opening_s(url))
        self._processes = Processes(pid)
        self._opened_s: list[float] = []
        self._empty = self._processes.look()
        self._looks: list[dict[str, float]] = []

    def gather(self) -> None:
        """Wait until everybody asks, or for so long as they may take."""
        deadline = time.perf_counter() + self._options.turn_seconds / 2 + _LATE_S
        while self._visitors.asking < self._options.sessions and time.perf_counter() < deadline:
            time.sleep(1.0)
            self._visitors.take()
        report(f"{self._visitors.asking} of {self._options.sessions} sessions ask")

    def look(self) -> None:
        """One look, with a line and what was seen so far."""
        self._visitors.take()
        now = self._processes.look() | {
            "turns": self._visitors.turns,
            "asking": self._visitors.asking,
            "deltas": self._visitors.received["delta"],
        }
        if self._looks:
            last = self._looks[-1]
            cores = shares(last, now)
            drawn = (now["deltas"] - last["deltas"]) / (now["at_s"] - last["at_s"])
            now |= {f"{name}_cores": share for name, share in cores.items()} | {"deltas_per_s": drawn}
            opened = f"{self._opened_s[-1]:.2f} s" if self._opened_s else "–"
            report(
                f"dashboard {cores['dashboard']:.0%} of a core, {now['dashboard_mb']:.0f} MB; "
                f"meter {cores['meter']:.0%}, {now['meter_mb']:.0f} MB; {drawn:.0f} deltas/s; "
                f"{self._visitors.turns} turns; page in {opened}; "
                f"{len(self._visitors.exceptions)} exceptions; load {os.getloadavg()[0]:.1f}"
            )
        self._looks.append(now)
        if self._options.out:
            self._options.out.write_text(json.dumps(self.figures(), indent=2), "utf-8")

    def follow(self) -> None:
        """Look until the time is over, and let a visitor open the page in between."""
        end = time.perf_counter() + 60 * self._options.minutes
        self.look()
        while (now := time.perf_counter()) < end:
            try:
                self._opened_s.append(asyncio.run(opening_s(self._url)))
            except OSError:
                self._opened_s.append(float("inf"))
            time.sleep(max(0.0, min(now + _LOOK_S, end) - time.perf_counter()))
            self.look()

    def figures(self) -> dict[str, Any]:
        looks = self._looks
        figures: dict[str, Any] = {
            "sessions": self._options.sessions,
            "asking": self._visitors.asking,
            "turn_s": self._options.turn_seconds,
            "turns": self._visitors.turns,
            "page_open_alone_s": self._alone_s,
            "page_open_in_the_crowd_s": self._opened_s,
            "crowd_opened_s": self._visitors.opened_s,
            "exceptions": self._visitors.exceptions[:20],
            "exception_count": len(self._visitors.exceptions),
            "load_average": os.getloadavg(),
            "cores": os.cpu_count(),
            "looks": [{key: round(value, 3) for key, value in look.items()} for look in looks],
        }
        if self._opened_s:
            figures["page_open_median_s"] = statistics.median(self._opened_s)
            figures["page_open_p95_s"] = quantile(self._opened_s, 0.95)
            figures["page_open_max_s"] = max(self._opened_s)
        if len(looks) > 1:
            minutes = (looks[-1]["at_s"] - looks[0]["at_s"]) / 60
            figures["minutes"] = minutes
            figures |= {f"{name}_cores": share for name, share in shares(looks[0], looks[-1]).items()}
            figures["dashboard_mb_per_session"] = (
                looks[0]["dashboard_mb"] - self._empty["dashboard_mb"]
            ) / self._options.sessions
            half = looks[len(looks) // 2 :]
            if len(half) > 1:
                grown = half[-1]["dashboard_mb"] - half[0]["dashboard_mb"]
                passed = (half[-1]["at_s"] - half[0]["at_s"]) / 60
                figures["second_half_mb_per_session_min"] = grown / self._options.sessions / passed
        following = [look for look in looks[1:] if look["turns"] == looks[0]["turns"]]
        if following:
            figures["following"] = {
                "looks": len(following),
                "dashboard_cores": statistics.median(look["dashboard_cores"] for look in following),
                "meter_cores": statistics.median(look["meter_cores"] for look in following),
                "deltas_per_s": statistics.median(look["deltas_per_s"] for look in following),
            }
        return figures


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sessions", type=int, default=64)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--turn-seconds", type=float, default=120.0)
    parser.add_argument(
        "--load-cores", type=int, default=0, help="cores for visitors and servers alone; 0 shares all"
    )
    parser.add_argument("--out", type=Path, help="write the figures as JSON, also while they come")
    options = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))
    load_cores = cores[: options.load_cores]
    with ExitStack() as held:
        home = Path(held.enter_context(tempfile.TemporaryDirectory(prefix="lmdyno-crowd-")))
        with on_cores(load_cores):
            urls = held.enter_context(servers(scenarios(options.turn_seconds)))
        with on_cores(cores[options.load_cores :] if load_cores else ()):
            dashboard = held.enter_context(started_dashboard(home, lanes_file(urls)))
        visitors = Visitors()
        held.callback(visitors.end)
        report(f"dashboard at {dashboard.url}, process {dashboard.process.pid}")
        watch = Watch(dashboard.url, dashboard.process.pid, visitors, options)
        with on_cores(load_cores):
            for first in range(0, options.sessions, _SESSIONS_PER_PROCESS):
                count = min(_SESSIONS_PER_PROCESS, options.sessions - first)
                tokens = str(most_tokens(options.turn_seconds))
                every = str(options.turn_seconds / 2 / count)
                visitors.start(
                    [
                        "--url",
                        dashboard.url,
                        "--sessions",
                        str(count),
                        "--max-tokens",
                        tokens,
                        "--every",
                        every,
                    ]
                )
        watch.gather()
        watch.follow()
        visitors.end()
        dashboard.end()
        report("reading the store")
        figures = watch.figures() | {"timings": timings(home, 100 * options.sessions)}
    text = json.dumps(figures, indent=2)
    sys.stdout.write(f"{text}\n")
    if options.out:
        options.out.write_text(text, "utf-8")


if __name__ == "__main__":
    main()
