"""Handles of the browser tests: a running dashboard, and the chat page in a tab."""

import base64
import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from time import monotonic, sleep

from playwright.sync_api import Page, expect

from core.codec import encode_plain
from core.domain.conversation import Sampling
from core.domain.turns import Mode
from core.settings import PROJECT_ROOT

START_S = 60


class Dashboard:
    """A dashboard that can be ended and started again, and the folder with its state."""

    def __init__(self, home: Path, environ: dict[str, str]) -> None:
        self.home = home
        self.log = home / "dashboard.log"
        self._environ = environ
        self._port = free_port()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def start(self) -> None:
        """Start it and wait until it answers."""
        with self.log.open("a") as output:
            self.process = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "streamlit",
                    "run",
                    "streamlit_app.py",
                    "--server.port",
                    str(self._port),
                ],
                cwd=PROJECT_ROOT,
                env={**os.environ, **self._environ},
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        wait_until_healthy(self.url, self.process, self.log)

    def end(self, signal_number: int = signal.SIGTERM) -> int:
        """Ask it to end, wait until it has; the exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signal_number)
        return self.process.wait(30)


@contextmanager
def started_dashboard(home: Path, lanes: str, **environ: str) -> Iterator[Dashboard]:
    home.mkdir(parents=True, exist_ok=True)
    lanes_file = home / "lanes.toml"
    lanes_file.write_text(lanes, "utf-8")
    places = {
        "LMDYNO_HOME": str(home),
        "LMDYNO_LANES": str(lanes_file),
        "STREAMLIT_SECRETS_FILES": str(home / "secrets.toml"),
    }
    dashboard = Dashboard(home, places | environ)
    try:
        dashboard.start()
        yield dashboard
    finally:
        try:
            dashboard.end()
        except subprocess.TimeoutExpired:
            dashboard.process.kill()
            dashboard.process.wait()


@contextmanager
def started_markdown_page(folder: Path, texts: Mapping[str, Sequence[str]]) -> Iterator[str]:
    """The page that shows batches of texts as the chat shows answers; yields its URL.

    It reads `texts.json` in the folder anew for each visit.
    """
    (folder / "texts.json").write_text(json.dumps(texts), "utf-8")
    port, log = free_port(), folder / "log"
    command = ["-m", "streamlit", "run", "tests/e2e/markdown_page.py", "--server.port", str(port)]
    environ = {
        "SHOWN_TEXTS": str(folder / "texts.json"),
        "PYTHONPATH": str(PROJECT_ROOT),
        "LMDYNO_HOME": str(folder),
    }
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, *command],
            cwd=PROJECT_ROOT,
            env=os.environ | environ,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        wait_until_healthy(f"http://127.0.0.1:{port}", process, log)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(30)


def settle(page: Page, *, timeout_s: float | None = None) -> None:
    """Wait until the page is drawn: until then it goes on showing parts of what was there before."""
    timeout = None if timeout_s is None else timeout_s * 1000
    expect(page.get_by_test_id("stApp")).to_have_attribute(
        "data-test-script-state", "notRunning", timeout=timeout
    )


def pick_lanes(page: Page, *lanes: str) -> None:
    """Have these lanes asked and no others."""
    pills = page.get_by_test_id("stSidebar").get_by_role("toolbar", name="Lanes").get_by_role("button")
    expect(pills.first).to_be_visible()
    for pill in pills.all():
        is_wanted = pill.inner_text().removeprefix("■").strip() in lanes
        if (pill.get_attribute("aria-pressed") == "true") != is_wanted:
            pill.click()
            expect(pill).to_have_attribute("aria-pressed", str(is_wanted).lower())
    settle(page)


class Chat:
    """The chat page's handles."""

    def __init__(self, page: Page, dashboard: Dashboard) -> None:
        self.page = page
        self.url = f"{dashboard.url}/chat"

    def open(self, *, pick: tuple[str, ...], together: bool = True) -> "Chat":
        """A new conversation with these lanes picked."""
        if pick:
            self._remember(pick, Mode.TOGETHER if together else Mode.ONE_AFTER_ANOTHER)
        self.page.goto(self.url)
        expect(self.input).to_be_enabled()
        pick_lanes(self.page, *pick)
        if together:
            expect(self.page.get_by_role("radio", name="Together")).to_be_checked()
        settle(self.page)
        return self

    def _remember(self, lanes: tuple[str, ...], mode: Mode) -> None:
        """Give the browser the cookie with its settings for new conversations: each click draws the page."""
        settings = {
            "lanes": lanes,
            "mode": mode,
            "baseline": lanes[0],
            "system_prompt": "",
            "sampling": Sampling(),
        }
        cookie = {
            "name": f"lmdyno_{self.url.rsplit('/', 1)[1]}",
            "value": base64.urlsafe_b64encode(encode_plain(settings)).decode(),
            "url": self.url,
        }
        self.page.context.add_cookies([cookie])

    @property
    def input(self):
        return self.page.get_by_test_id("stChatInputTextArea")

    @property
    def stop(self):
        """Ours: Streamlit's toolbar shows one as well until the page has loaded."""
        return self.page.get_by_test_id("stBottomBlockContainer").get_by_role("button", name="Stop")

    @property
    def regenerate(self):
        return self.page.get_by_role("button", name="Regenerate")

    @property
    def answers(self):
        """The boxes of the last turn's answers, in the lanes' order."""
        return self.page.locator("[class*='st-key-answer_']")

    def answer(self, lane: str):
        return self.page.locator(f"[class*='st-key-answer_{lane}_']")

    def ask(self, prompt: str = "What is Ohm's law?") -> None:
        self.input.fill(prompt)
        self.input.press("Enter")
        # Not Stop: a short answer may be over before the browser looks.
        expect(self.page.get_by_test_id("stChatMessage").get_by_text(prompt)).to_be_visible()

    def wait_until(self, holds: Callable[[], bool]) -> None:
        """For what the page does not show; looks while the page goes on."""
        deadline = monotonic() + START_S
        while not holds():
            assert monotonic() < deadline, "it did not come to hold"
            self.page.wait_for_timeout(50)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_until_healthy(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = monotonic() + START_S
    while monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(f"{url}/_stcore/health", timeout=2) as answer:
                if answer.status == 200:
                    return
        except OSError:
            sleep(0.1)
    raise RuntimeError(f"the dashboard did not start:\n{log.read_text()}")
