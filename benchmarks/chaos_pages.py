"""kill -9 of a dashboard or of a browser in mid-answer, with real ones: Streamlit, meter, store and Chromium.

What the browser showed just before the kill is held against the store once the surviving meter has ended the
answers. A dashboard is started again then, and the tab that stayed open must show what is stored.
"""

import os
import random
import re
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import psutil
from playwright.sync_api import Error, Page, Playwright, expect, sync_playwright

from benchmarks.chaos_stand import PATIENCE_S, Outcome, home_folder, left_over, until
from benchmarks.crowd_stand import LANES, lanes_file, scenarios, server
from core.domain.turns import TurnRecord
from core.store.turns import Store
from tests.e2e.e2e_dashboard import Dashboard, settle, started_dashboard

KINDS = ("dashboard", "browser")

_ANSWER_S = 6.0
"""Of the quick lane: fewer tokens than the page asks for."""
_LOOK_MS = 90_000
_WORD = re.compile(r"word\d+")
_ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-sync",
]


def run(kind: str, kills: int, seed: int) -> Outcome:
    """Kill so often; what goes wrong is counted, and the next kill follows."""
    outcome = Outcome()
    kill = _kill_a_dashboard if kind == "dashboard" else _kill_a_browser
    with home_folder() as settings:
        with (
            server(scenarios(_ANSWER_S)) as url,
            started_dashboard(settings.home, lanes_file(url)) as dashboard,
            closing(Store(settings.database_url)) as store,
            sync_playwright() as playwright,
        ):
            for number in range(kills):
                try:
                    kill(outcome, playwright, dashboard, store, random.Random(f"{seed} {kind} {number}"))
                except Exception as exc:  # noqa: BLE001 - what is counted here
                    outcome.exceptions.append(f"{kind} {number}: {type(exc).__name__}: {exc}")
                if dashboard.process.poll() is not None:
                    dashboard.start()
            outcome.exceptions += _faults(dashboard.log)
        outcome.orphans += left_over(settings.home)
    return outcome


def _kill_a_dashboard(
    outcome: Outcome, playwright: Playwright, dashboard: Dashboard, store: Store, chance: random.Random
) -> None:
    with _tab(outcome, playwright, dashboard) as page:
        shown = _ask_and_read(page, chance)
        children = psutil.Process(dashboard.process.pid).children(recursive=True)
        dashboard.process.kill()
        killed_s = time.monotonic()
        outcome.kills += 1
        dashboard.process.wait()
        turn = _settle(outcome, store, shown, killed_s)
        outcome.orphans += len(psutil.wait_procs(children, PATIENCE_S)[1])
        dashboard.start()
        # The tab connects again by itself, and shows the answers from their records.
        expect(page.get_by_role("button", name="Regenerate")).to_be_visible(timeout=_LOOK_MS)
        for request in turn.requests:
            answer = page.locator(f"[class*='st-key-answer_{request.lane.name}_']")
            if _WORD.findall(answer.inner_text()) != _WORD.findall(request.text):
                outcome.exceptions.append(f"{request.lane.name}: the tab shows something else than the store")


def _kill_a_browser(
    outcome: Outcome, playwright: Playwright, dashboard: Dashboard, store: Store, chance: random.Random
) -> None:
    with suppress(Error), _tab(outcome, playwright, dashboard) as page:  # it can't be closed any more
        shown = _ask_and_read(page, chance)
        browser = next(
            process
            for process in psutil.Process().children(recursive=True)
            if "chrom" in process.name() and not any(part.startswith("--type=") for part in process.cmdline())
        )
        os.kill(browser.pid, signal.SIGKILL)
        killed_s = time.monotonic()
        outcome.kills += 1
        _settle(outcome, store, shown, killed_s)


@contextmanager
def _tab(outcome: Outcome, playwright: Playwright, dashboard: Dashboard) -> Iterator[Page]:
    """A browser with the chat, both lanes together; notes what it asks of other servers."""
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    browser = playwright.chromium.launch(executable_path=path, args=_ARGUMENTS)
    page = browser.new_page()
    page.set_default_timeout(_LOOK_MS)

    def note(address: str) -> None:
        if not address.startswith((dashboard.url, "data:", "blob:")):
            outcome.exceptions.append(f"a request to {address}")

    page.on("request", lambda request: note(request.url))
    page.goto(f"{dashboard.url}/chat")
    page.get_by_role("radio", name="Together").click()
    settle(page, timeout_s=60)
    yield page
    browser.close()


def _ask_and_read(page: Page, chance: random.Random) -> dict[str, list[str]]:
    """Ask, and read the words of each lane's answer some time later."""
    prompt = page.get_by_test_id("stChatInputTextArea")
    prompt.fill("Go on.")
    prompt.press("Enter")
    answers = {lane: page.locator(f"[class*='st-key-answer_{lane}_']") for lane in LANES}
    for answer in answers.values():
        expect(answer).to_contain_text("word1", timeout=_LOOK_MS)
    page.wait_for_timeout(1000 * chance.uniform(0, _ANSWER_S / 3))
    return {lane: _WORD.findall(answer.inner_text()) for lane, answer in answers.items()}


def _settle(outcome: Outcome, store: Store, shown: dict[str, list[str]], killed_s: float) -> TurnRecord:
    """Wait until the last turn is stored, and count what was shown of it and isn't there."""

    def newest() -> TurnRecord:
        return store.conversation(store.conversations(limit=1)[0].id)[-1]

    until(lambda: newest().done)
    outcome.settled_s.append(time.monotonic() - killed_s)
    turn = newest()
    for request in turn.requests:
        words, kept = shown[request.lane.name], _WORD.findall(request.text)
        outcome.shown_tokens += len(words)
        outcome.lost_tokens += sum(
            place >= len(kept) or kept[place] != word for place, word in enumerate(words)
        )
        whole = _WORD.findall(str(scenarios(_ANSWER_S)[request.lane.name]["text"]))
        if kept != whole:
            outcome.exceptions.append(f"{request.lane.name}: {len(kept)} of {len(whole)} tokens are stored")
    return turn


def _faults(log: Path) -> list[str]:
    """Tracebacks in the dashboard's log."""
    return ["a traceback in the dashboard's log"] * log.read_text("utf-8").count("Traceback")
