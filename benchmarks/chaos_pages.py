"""kill -9 in mid-answer with real pages: Streamlit, meter, store and Chromium.

What the browser showed just before the kill is held against the store once the answers have ended there.
Afterwards a page must show what is stored: the tab that stayed open when its dashboard is back, the reloaded
one after its meter's death, a new browser after the old one's. The answers hold pictures of another server.
"""

import os
import random
import re
import shutil
import signal
import time
import traceback
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from typing import Any
from urllib.parse import urlsplit

import psutil
from playwright.sync_api import Error, Page, Playwright, Route, WebSocket, expect, sync_playwright

from benchmarks.chaos_stand import PATIENCE_S, Outcome, home_folder, leave, until
from benchmarks.crowd_stand import LANES, lanes_file, scenarios, server
from core.domain.turns import TurnRecord
from core.store.turns import Store
from tests.e2e.e2e_dashboard import Dashboard, settle, started_dashboard

KINDS = ("meter of a page", "dashboard", "browser")

_ANSWER_S = 6.0
"""Of the quick lane: fewer tokens than the page asks for."""
_LOOK_MS = 90_000
_PICTURE = "http://leak.invalid/x.png"
_BROWSERS = ("chromium-headless-shell", "chromium", "chromium-browser")
_WORD = re.compile(r"word\d+")
_ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-sync",
]


def attempts(kind: str, numbers: Iterable[int], seed: int) -> Iterator[tuple[int, Outcome]]:
    """Kill once for each number; what goes wrong is counted, and the next kill follows."""
    kill = {"dashboard": _kill_a_dashboard, "browser": _kill_a_browser, "meter of a page": _kill_a_meter}[
        kind
    ]
    with home_folder() as settings:
        outcome, number, known = Outcome(), -1, 0
        with (
            server(_answers()) as url,
            started_dashboard(settings.home, lanes_file(url)) as dashboard,
            closing(Store(settings.database_url)) as store,
            sync_playwright() as playwright,
        ):
            for number in numbers:
                outcome = Outcome()
                stand = _Stand(
                    outcome, playwright, dashboard, store, random.Random(f"{seed} {kind} {number}")
                )
                try:
                    kill(stand)
                except Exception:  # noqa: BLE001 - what is counted here
                    outcome.exceptions.append(f"{kind} {number}: {traceback.format_exc(limit=-4)}")
                if dashboard.process.poll() is not None:
                    dashboard.start()
                faults = dashboard.log.read_text("utf-8", "replace").count("Traceback")
                outcome.exceptions += ["a traceback in the dashboard's log"] * (faults - known)
                known = faults
                yield number, outcome
        outcome = Outcome()
        leave(outcome, settings)
        yield number, outcome


@dataclass
class _Stand:
    """What one kill has to do with."""

    outcome: Outcome
    playwright: Playwright
    dashboard: Dashboard
    store: Store
    chance: random.Random

    def kill(self, pid: int) -> float:
        os.kill(pid, signal.SIGKILL)
        self.outcome.kills += 1
        return time.monotonic()

    def settle(self, shown: dict[str, list[str]], killed_s: float) -> TurnRecord:
        """Wait until the last turn is stored, and count what was shown of it and isn't there."""

        def newest() -> TurnRecord:
            return self.store.conversation(self.store.conversations(limit=1)[0].id)[-1]

        until(lambda: newest().done)
        self.outcome.settled_s.append(time.monotonic() - killed_s)
        turn = newest()
        for request in turn.requests:
            self.outcome.compare(shown[request.lane.name], _WORD.findall(request.text))
            if request.error is not None:
                self.outcome.codes[request.error.code] += 1
        return turn

    def must_be_whole(self, turn: TurnRecord) -> None:
        for request in turn.requests:
            kept = _WORD.findall(request.text)
            whole = _WORD.findall(str(_answers()[request.lane.name]["text"]))
            if kept != whole:
                self.outcome.exceptions.append(
                    f"{request.lane.name}: {len(kept)} of {len(whole)} tokens are stored"
                )

    def must_show(self, page: Page, turn: TurnRecord) -> None:
        """The page shows the turn as the store has it."""
        expect(page.get_by_role("button", name="Regenerate")).to_be_visible(timeout=_LOOK_MS)
        settle(page, timeout_s=60)
        for request in turn.requests:
            answer = page.locator(f"[class*='st-key-answer_{request.lane.name}_']")
            if _WORD.findall(answer.inner_text()) != _WORD.findall(request.text):
                self.outcome.exceptions.append(
                    f"{request.lane.name}: the tab shows something else than the store"
                )


def _kill_a_dashboard(stand: _Stand) -> None:
    with _tab(stand) as page:
        shown = _ask_and_read(page, stand.chance)
        children = psutil.Process(stand.dashboard.process.pid).children(recursive=True)
        killed_s = stand.kill(stand.dashboard.process.pid)
        stand.dashboard.process.wait()
        turn = stand.settle(shown, killed_s)
        stand.must_be_whole(turn)
        left = psutil.wait_procs(children, PATIENCE_S)[1]
        stand.outcome.orphans += len(left)
        for process in left:
            process.kill()
        stand.dashboard.start()
        # The tab connects again by itself, and shows the answers from their records.
        stand.must_show(page, turn)


def _kill_a_meter(stand: _Stand) -> None:
    """The dashboard's; what the tab showed before must be there at a later visit too."""
    with _tab(stand) as page:
        shown = _ask_and_read(page, stand.chance)
        meter = next(
            process
            for process in psutil.Process(stand.dashboard.process.pid).children(recursive=True)
            if "core.meter.process" in process.cmdline()
        )
        killed_s = stand.kill(meter.pid)
        turn = stand.settle(shown, killed_s)
        page.reload()
        stand.must_show(page, turn)


def _kill_a_browser(stand: _Stand) -> None:
    with _tab(stand) as page:
        shown = _ask_and_read(page, stand.chance)
        address = page.url
        browser = next(
            process
            for process in psutil.Process().children(recursive=True)
            if "chrom" in process.name() and not any(part.startswith("--type=") for part in process.cmdline())
        )
        killed_s = stand.kill(browser.pid)
        turn = stand.settle(shown, killed_s)
        stand.must_be_whole(turn)
    with _tab(stand, address) as page:
        stand.must_show(page, turn)


@contextmanager
def _tab(stand: _Stand, address: str | None = None) -> Iterator[Page]:
    """A browser with that address, or with the chat and both lanes together."""
    own = urlsplit(stand.dashboard.url).netloc
    with browser_tab(stand.playwright, {own}, stand.outcome.foreign) as page:
        page.goto(address or f"{stand.dashboard.url}/chat")
        if address is None:
            page.get_by_role("radio", name="Together").click()
        settle(page, timeout_s=60)
        yield page


@contextmanager
def browser_tab(playwright: Playwright, own: set[str], foreign: list[str]) -> Iterator[Page]:
    """A browser; what it asks of others than these hosts and ports is refused, and added to the list."""
    path = next(filter(None, map(shutil.which, _BROWSERS)), None)  # None: Playwright's own
    browser = playwright.chromium.launch(executable_path=path, args=_ARGUMENTS)
    context = browser.new_context(viewport={"width": 1400, "height": 900})

    def look(route: Route) -> None:
        address = urlsplit(route.request.url)
        with suppress(Error):  # of a browser that was killed
            if address.netloc in own or address.scheme in ("data", "blob"):
                route.continue_()
            else:
                foreign.append(route.request.url)
                route.abort()

    def note_socket(socket: WebSocket) -> None:
        if urlsplit(socket.url).netloc not in own:
            foreign.append(socket.url)

    context.route("**/*", look)
    page = context.new_page()
    page.on("websocket", note_socket)
    page.set_default_timeout(_LOOK_MS)
    try:
        yield page
    finally:
        with suppress(Error):  # a killed one can't be closed any more
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


@cache
def _answers() -> dict[str, dict[str, Any]]:
    """Words, and a picture of another server after each paragraph."""
    return {
        lane: answer | {"text": str(answer["text"]).replace("\n\n", f"\n\n![x]({_PICTURE})\n\n")}
        for lane, answer in scenarios(_ANSWER_S).items()
    }
