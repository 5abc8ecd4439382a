"""How long pages take to appear in Chromium over a full store, first visit and later ones.

    python -m benchmarks.page_speed [--turns N] [--runs N] [--rounds N] [--json FILE]

A home with 1,000 turns and 50 benchmark runs is filled through the store's own API; the dashboard runs as a
visitor has it. Each page is opened from the navigation: *painted* is the time from the click until its
heading stands, *settled* until Streamlit's script has ended, *rested* until the browser has no work left: the
first chart has it compile plotly.js, which keeps a click on the next page waiting. The first visit comes
right after the dashboard has started, in a new browser; the others are medians over the rounds. Then the
rounds are repeated while three lanes stream answers in another tab. Targets on an idle 2-core machine:
painted within 0.5 s and settled within 1.5 s, and twice that while lanes stream. Everything shares one
machine, and the load before is printed.
"""

import argparse
import json
import shutil
import statistics
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

from playwright.sync_api import Browser, Page, expect, sync_playwright

from benchmarks.history import fill
from benchmarks.meter import this_machine, told
from tests.e2e.e2e_dashboard import Dashboard, settle, started_dashboard
from tests.scripted_server import Scenario, running

PAGES = ("Chat", "Vision", "Benchmark", "Quality", "Sessions", "Engines", "Memory", "History", "Overview")
PAINTED_S, SETTLED_S = 0.5, 1.5
CHROMIUM_ARGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync"]
LOOK_MS = 60_000
LANES = "".join(
    f'[lanes.{name}]\nengine = "endpoint"\nurl = "{{url}}"\nmodel = "stream"\n\n' for name in ("a", "b", "c")
)

Times = dict[str, list[tuple[float, float, float]]]
"""Of each page: painted, settled and rested, in seconds."""
REST = "() => new Promise((done) => setTimeout(() => requestIdleCallback(() => done()), 100))"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--turns", type=int, default=1000)
    parser.add_argument("--runs", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    machine = this_machine()
    stream = Scenario(chunks=100_000, first_chunk_s=0.2, interval_s=0.02)
    with (
        tempfile.TemporaryDirectory() as folder,
        running(scenarios={"stream": stream}) as server,
        sync_playwright() as playwright,
    ):
        home = Path(folder)
        fill(f"sqlite:///{home / 'lmdyno.db'}", runs=options.runs, turns=options.turns)
        path = shutil.which("chromium") or shutil.which("chromium-browser")
        chromium = playwright.chromium.launch(executable_path=path, args=CHROMIUM_ARGS)
        with started_dashboard(home, LANES.format(url=server.url)) as dashboard:
            figures = measure(chromium, dashboard, options.rounds)
        chromium.close()
    for row in table(figures):
        print(row)
    print(told(machine))
    if options.json:
        document = {"machine": machine, "turns": options.turns, "runs": options.runs, "figures": figures}
        options.json.write_text(json.dumps(document, indent=1) + "\n", "utf-8")
    return 0


def measure(chromium: Browser, dashboard: Dashboard, rounds: int) -> dict[str, Any]:
    """First visit, later visits, and visits while lanes stream, of each page."""
    page = chromium.new_page(viewport={"width": 1400, "height": 900})
    page.set_default_timeout(LOOK_MS)
    expect.set_options(timeout=LOOK_MS)
    page.goto(dashboard.url)
    settle(page)
    first = visit_all(page, 1)
    later = visit_all(page, rounds)
    streaming = chromium.new_page()
    streaming.goto(f"{dashboard.url}/chat")
    settle(streaming)
    streaming.get_by_test_id("stChatInputTextArea").fill("Go.")
    streaming.get_by_test_id("stChatInputTextArea").press("Enter")
    expect(streaming.get_by_text("word9 ").first).to_be_attached()
    busy = visit_all(page, rounds)
    streaming.get_by_test_id("stBottomBlockContainer").get_by_role("button", name="Stop").click()
    expect(streaming.get_by_role("button", name="Regenerate")).to_be_visible()
    return {"first": summary(first), "later": summary(later), "streaming": summary(busy)}


def visit_all(page: Page, rounds: int) -> Times:
    times: Times = defaultdict(list)
    for _ in range(rounds):
        for name in PAGES:
            times[name].append(visit(page, name))
    return times


def visit(page: Page, name: str) -> tuple[float, float, float]:
    """Seconds from the click until the page is painted, settled, and the browser at rest."""
    link = page.get_by_test_id("stHeader").get_by_role("link", name=name, exact=True)
    began_s = perf_counter()
    link.click()
    expect(page.get_by_role("heading", level=1, name=name, exact=True)).to_be_visible()
    painted_s = perf_counter() - began_s
    settle(page)
    settled_s = perf_counter() - began_s
    page.evaluate(REST)
    return painted_s, settled_s, perf_counter() - began_s


def summary(times: Mapping[str, Sequence[tuple[float, float]]]) -> dict[str, dict[str, float]]:
    return {
        name: {
            "painted_s": round(statistics.median(painted for painted, _, _ in found), 3),
            "settled_s": round(statistics.median(settled for _, settled, _ in found), 3),
            "worst_settled_s": round(max(settled for _, settled, _ in found), 3),
            "rested_s": round(statistics.median(rested for _, _, rested in found), 3),
            "n": len(found),
        }
        for name, found in times.items()
    }


def table(figures: Mapping[str, Mapping[str, Mapping[str, float]]]) -> Iterator[str]:
    yield f"{'page':10} {'when':10} painted settled  worst  rested"
    for when, pages in figures.items():
        factor = 2 if when == "streaming" else 1
        for name, found in pages.items():
            is_slow = found["painted_s"] > factor * PAINTED_S or found["settled_s"] > factor * SETTLED_S
            yield (
                f"{name:10} {when:10} {found['painted_s']:6.2f}s {found['settled_s']:6.2f}s "
                f"{found['worst_settled_s']:6.2f}s {found['rested_s']:6.2f}s"
                f"{'  over the target' if is_slow else ''}"
            )


if __name__ == "__main__":
    sys.exit(main())
