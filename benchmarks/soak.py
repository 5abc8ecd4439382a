"""What dashboard and meter grow by while visitors ask one short question after another.

    python -m benchmarks.soak [--minutes 60] [--visitors 4] [--out FILE.json]

The lanes answer at once, so that turns come as fast as the dashboard draws them. A visitor begins a new
conversation for each turn and opens a new session every 25 turns. Growth is the slope of a line through what
both processes held in the second half of the turns; its goal is at most 1 MB for each 1,000 turns. Each look
is a line on the standard error.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.crowd_stand import (  # noqa: E402
    Processes,
    Visitors,
    lanes_file,
    report,
    scenarios,
    servers,
    timings,
)
from tests.e2e.e2e_dashboard import started_dashboard  # noqa: E402

_LOOK_S = 2.0
_LOOKS_PER_LINE = 10
_TURNS_PER_SESSION = 25
_MAX_TOKENS = 64


def slope_mb(looks: Sequence[dict[str, float]], process: str) -> tuple[float, float]:
    """MB for each 1,000 turns by least squares, and the standard error of that."""
    turns = np.array([look["turns"] for look in looks]) / 1000
    held = np.array([look[f"{process}_mb"] for look in looks])
    (slope, _), covariance = np.polyfit(turns, held, 1, cov=True)
    return float(slope), float(np.sqrt(covariance[0, 0]))


def figures(looks: Sequence[dict[str, float]], visitors: Visitors) -> dict[str, Any]:
    told: dict[str, Any] = {
        "turns": visitors.turns,
        "minutes": (looks[-1]["at_s"] - looks[0]["at_s"]) / 60,
        "exceptions": visitors.exceptions[:20],
        "load_average": os.getloadavg(),
        "cores": os.cpu_count(),
    }
    half = [look for look in looks if look["turns"] >= visitors.turns / 2]
    turns = looks[-1]["turns"] - looks[0]["turns"]
    for process in ("dashboard", "meter"):
        told[f"{process}_cpu_s_per_turn"] = (
            (looks[-1][f"{process}_cpu_s"] - looks[0][f"{process}_cpu_s"]) / turns if turns else None
        )
        told[f"{process}_mb"] = [
            round(look[f"{process}_mb"], 1) for look in looks[:: max(1, len(looks) // 30)]
        ]
        if len(half) > 5:
            told[f"{process}_mb_per_1000_turns"], told[f"{process}_standard_error"] = slope_mb(half, process)
    return told


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--visitors", type=int, default=4)
    parser.add_argument("--out", type=Path, help="write the figures as JSON, also while they come")
    options = parser.parse_args()
    with ExitStack() as held:
        home = Path(held.enter_context(tempfile.TemporaryDirectory(prefix="lmdyno-soak-")))
        urls = held.enter_context(servers(scenarios(0, at_once=True)))
        dashboard = held.enter_context(started_dashboard(home, lanes_file(urls)))
        visitors = Visitors()
        held.callback(visitors.end)
        for _ in range(options.visitors):
            sessions = ["--sessions", "1", "--turns-per-session", str(_TURNS_PER_SESSION)]
            visitors.start(["--url", dashboard.url, "--max-tokens", str(_MAX_TOKENS), *sessions])
        end = time.perf_counter() + 60 * options.minutes
        while not visitors.turns and time.perf_counter() < end:
            time.sleep(_LOOK_S)
            visitors.take()
        processes = Processes(dashboard.process.pid)
        looks: list[dict[str, float]] = []
        while time.perf_counter() < end:
            visitors.take()
            looks.append(processes.look() | {"turns": float(visitors.turns)})
            if len(looks) % _LOOKS_PER_LINE == 1:
                report(
                    f"{visitors.turns} turns; dashboard {looks[-1]['dashboard_mb']:.1f} MB, meter "
                    f"{looks[-1]['meter_mb']:.1f} MB; {len(visitors.exceptions)} exceptions"
                )
                if options.out:
                    options.out.write_text(json.dumps(figures(looks, visitors), indent=2), "utf-8")
            time.sleep(_LOOK_S)
        visitors.end()
        dashboard.end()
        told = figures(looks, visitors) | {"stored": timings(home, 10**6)["answers"]}
    text = json.dumps(told, indent=2)
    sys.stdout.write(f"{text}\n")
    if options.out:
        options.out.write_text(text, "utf-8")


if __name__ == "__main__":
    main()
