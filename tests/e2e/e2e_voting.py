"""Handles of the browser tests on sessions: a host's page, and voters with everything that they were sent."""

import re
from dataclasses import dataclass, field

from e2e_dashboard import settle
from playwright.sync_api import Browser, BrowserContext, Locator, Page, WebSocket, expect

DESK = {"viewport": {"width": 1000, "height": 800}}
PHONE = {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True}
LEAST_VIEW_MS = 500
"""A vote that comes sooner after its item is taken for the end of a double click."""


@dataclass
class Sent:
    """What one tab received or asked for until now."""

    frames: list[bytes] = field(default_factory=list)
    urls: list[str] = field(default_factory=list)
    _taken: int = 0

    def follow(self, tab: Page) -> None:
        tab.on("request", lambda request: self.urls.append(request.url))
        tab.on("websocket", self._follow_socket)

    def _follow_socket(self, socket: WebSocket) -> None:
        self.urls.append(socket.url)
        socket.on("framereceived", lambda frame: self.frames.append(_as_bytes(frame)))

    def take_frames(self) -> list[bytes]:
        """Those that came since the last call."""
        new = self.frames[self._taken :]
        self._taken = len(self.frames)
        return new


class Voter:
    """One person's browser on a voting link."""

    def __init__(self, browser: Browser, link: str, name: str, **window) -> None:
        self.name = name
        self.link = link
        self.sent = Sent()
        self.choices: list[tuple[str, str]] = []
        """Prompt and preferred text of each vote that the page confirmed."""
        self._browser, self._window = browser, window or DESK
        self._open()

    def _open(self) -> None:
        self.context: BrowserContext = self._browser.new_context(**self._window, reduced_motion="reduce")
        self.context.set_default_timeout(30_000)
        self.page = self.context.new_page()
        self.sent.follow(self.page)
        self.page.goto(self.link)

    def join(self) -> None:
        self.page.get_by_label("Your name or a nickname").fill(self.name)
        self.page.get_by_role("button", name="Join").click()

    def continue_on_another_device(self, code: str) -> None:
        """Begin anew in a browser that knows nothing of the first one."""
        self._open()
        self.page.get_by_text("I started on another device").click()
        self.page.get_by_role("textbox", name="Your code").fill(code)
        self.page.get_by_role("button", name="Continue").click()

    @property
    def code(self) -> str:
        told = self.page.get_by_text("To continue on another device").inner_text()
        return told.rsplit(" ", 1)[1]

    @property
    def prompt(self) -> str:
        return self.page.get_by_test_id("stChatMessage").get_by_test_id("stMarkdown").inner_text().strip()

    def box(self, letter: str) -> Locator:
        return self.page.locator(f"[class*='st-key-answer_{letter}_']")

    def text(self, letter: str) -> str:
        return self.box(letter).inner_text().strip()

    def done(self) -> int:
        """Votes that the page says were given."""
        told = self.page.get_by_text(re.compile(r"\d+ of \d+ votes given")).inner_text()
        return int(told.split(" ")[0])

    def expect_done(self, done: int, total: int) -> None:
        """The item after that many votes is in view, with its answers."""
        if done < total:
            expect(self.page.get_by_text(f"{done} of {total} votes given")).to_be_visible()
            expect(self.box("B").get_by_test_id("stMarkdown").first).to_be_visible()
        else:
            expect(self.page.get_by_text(re.compile("which would you deploy|That was all"))).to_be_visible()
        settle(self.page)

    def close(self) -> None:
        self.context.close()


class Host:
    """The page of whoever runs the session."""

    def __init__(self, page: Page, url: str) -> None:
        self.page = page
        self.url = url

    def create(self, title: str, *, lanes: tuple[str, ...], prompts: tuple[str, ...]) -> None:
        """Fill in the form, have the answers made, and wait until voting can be opened."""
        page = self.page
        page.goto(f"{self.url}/sessions")
        page.get_by_role("button", name="New session").click()
        page.get_by_label("Title").fill(title)
        for lane in lanes:
            pill = page.get_by_test_id("stMain").get_by_role("button", name=f"■ {lane}")
            pill.click()
            expect(pill).to_have_attribute("aria-pressed", "true")
        page.get_by_label("Prompts", exact=True).click()
        page.get_by_role("option", name="Pasted lines").click()
        lines = page.get_by_label("One prompt per line")
        lines.fill("\n".join(prompts))
        lines.press("Control+Enter")
        expect(page.get_by_text(f"{len(prompts)} prompts, version")).to_be_visible()
        second = page.get_by_role("spinbutton", name="Second votes")
        second.fill("1")
        second.press("Enter")
        settle(page)
        page.get_by_role("button", name="Generate answers").click()
        expect(page.get_by_role("button", name="Open voting")).to_be_enabled()

    def open_voting(self) -> str:
        """The voting link."""
        self.page.get_by_role("button", name="Open voting").click()
        return self.page.get_by_test_id("stCode").inner_text().strip()

    def expect_progress(self, name: str, done: int, total: int) -> None:
        expect(self.page.get_by_text(f"{name}: {done} of {total}", exact=True)).to_be_visible()


def _as_bytes(frame: str | bytes) -> bytes:
    return frame.encode() if isinstance(frame, str) else frame
