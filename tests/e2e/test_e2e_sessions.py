"""A session as a team has it: a host and six people at once, in a real browser, on both databases."""

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from urllib.parse import parse_qs, urlsplit

import pytest
from e2e_dashboard import Dashboard, settle, started_dashboard
from playwright.sync_api import Browser, BrowserContext, Page, expect

from core.store.sessions.sessions import Sessions
from core.store.sessions.votes import Votes
from tests.unit.store.conftest import postgresql_server, postgresql_url  # noqa: F401 - fixtures

LANES = ("quokka", "wombat")
PROMPTS = 10
PHONE = {"width": 400, "height": 800}
DESK = {"width": 1280, "height": 900}


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request, tmp_path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'home' / 'lmdyno.db'}"
    return request.getfixturevalue("postgresql_url")


@pytest.fixture
def room(server, tmp_path, database_url) -> Iterator[Dashboard]:
    """A dashboard with two lanes, one of them much slower, that tell who they are by their text alone."""

    def answers(lane: str, interval_s: float) -> str:
        texts = [f"Marsupial {lane[0]} {number}: " + "word " * (5 + 7 * number) for number in range(PROMPTS)]
        return json.dumps([{"text": text, "interval_s": interval_s} for text in texts])

    tables = [
        f"[lanes.{lane}]\nengine = 'endpoint'\nurl = '{server.url}'\n"
        f"model = '''{answers(lane, interval_s)}'''\n"
        for lane, interval_s in zip(LANES, (0.0, 0.004), strict=True)
    ]
    with started_dashboard(tmp_path / "home", "\n".join(tables), LMDYNO_DATABASE_URL=database_url) as running:
        yield running


@dataclass
class Voter:
    """One person's tab, and what the dashboard sent to it."""

    name: str
    context: BrowserContext
    page: Page
    frames: list[bytes] = field(default_factory=list)
    votes: int = 0

    @property
    def progress(self):
        return self.page.get_by_test_id("stProgress").first

    def join(self, link: str) -> None:
        self.page.goto(link)
        self.page.get_by_label("Your name or a nickname").fill(self.name)
        self.page.get_by_role("button", name="Take part").click()
        self.wait_for(0)

    def wait_for(self, votes: int) -> None:
        """Until the item after so many votes is there."""
        expect(self.progress).to_contain_text(f"{votes} of {PROMPTS}")
        settle(self.page)
        self.votes = votes

    def press(self, key: str) -> None:
        # Longer than a double click takes, which counts once.
        self.page.wait_for_timeout(500)
        self.page.keyboard.press(key)

    def boxes(self) -> list[dict]:
        found = self.page.locator("[class*='st-key-answer_']").all()
        return [box.bounding_box() for box in found]


@pytest.fixture
def new_voter(browser: Browser):
    contexts = []

    def make(name: str, viewport: dict) -> Voter:
        context = browser.new_context(viewport=viewport)
        contexts.append(context)
        voter = Voter(name, context, context.new_page())
        voter.page.on(
            "websocket",
            lambda socket: socket.on(
                "framereceived",
                lambda data: voter.frames.append(data if isinstance(data, bytes) else data.encode()),
            ),
        )
        return voter

    yield make
    for context in contexts:
        context.close()


def prepared_link(page: Page, room: Dashboard) -> str:
    """The host makes a session with pasted prompts, waits for the answers and opens the voting."""
    page.goto(f"{room.url}/sessions")
    page.get_by_role("button", name="New session").click()
    page.get_by_label("Title").fill("Which marsupial?")
    page.get_by_label("Title").press("Enter")
    for lane in LANES:
        page.get_by_test_id("stMain").get_by_role("button", name=f"■ {lane}").click()
    settle(page)
    page.get_by_test_id("stSelectbox").filter(has_text="Prompts").locator("input").click()
    page.get_by_role("option", name="Pasted lines").click()
    page.get_by_label("One prompt per line").fill("\n".join(f"Question {n}?" for n in range(PROMPTS)))
    page.get_by_label("One prompt per line").press("Control+Enter")
    expect(page.get_by_text(f"My prompts: {PROMPTS} prompts")).to_be_visible()
    votes = page.get_by_label("Votes per person")
    votes.fill(str(PROMPTS))
    votes.press("Enter")
    settle(page)
    page.get_by_role("button", name="Generate answers").click()
    page.get_by_role("button", name="Open voting").click()
    link = page.locator("code").filter(has_text="session=")
    expect(link).to_be_visible()
    return link.inner_text()


def test_a_room_votes_at_once_and_no_vote_is_lost_doubled_or_told(page, room, database_url, new_voter):
    link = prepared_link(page, room)
    people = [
        new_voter(name, PHONE if name == "phone" else DESK)
        for name in ("ada", "bo", "cy", "phone", "reloads", "closes")
    ]
    for voter in people:
        voter.join(link)
    for vote in range(1, PROMPTS + 1):
        at_work = [voter for voter in people if not voter.page.is_closed()]
        for voter in at_work:
            first, second = voter.boxes()
            assert (first["width"], first["height"]) == (second["width"], second["height"])
            voter.press("1234"[(vote + len(voter.name)) % 4])
            if voter.name == "cy":
                voter.page.keyboard.press("1")  # a double click
        for voter in at_work:
            if vote < PROMPTS:
                voter.wait_for(vote)
            if voter.name == "reloads" and vote in (3, 7):
                voter.page.reload()
                voter.wait_for(vote)
            if voter.name == "closes" and vote == 4:
                voter.context.close()
            if vote == PROMPTS - 1:
                assert_blind(voter)
    for voter in people:
        if not voter.page.is_closed():
            expect(voter.page.get_by_text("which would you deploy?")).to_be_visible()
            expect(voter.page.get_by_text("tok/s").first).to_be_visible()
    assert_votes(database_url, {voter.name: 4 if voter.name == "closes" else PROMPTS for voter in people})

    page.get_by_role("button", name="Close voting").click()
    expect(page.get_by_text("How far to trust this")).to_be_visible()
    expect(people[0].page.get_by_text("Voting has ended")).not_to_be_visible()
    people[0].page.reload()
    expect(people[0].page.get_by_text("Voting has ended")).to_be_visible()


def test_another_device_goes_on_and_the_link_leads_nowhere_else(page, room, database_url, new_voter):
    link = prepared_link(page, room)
    ada = new_voter("ada", DESK)
    ada.join(link)
    for vote in (1, 2):
        ada.press("2")
        ada.wait_for(vote)
    ada.press("6")
    ada.wait_for(1)
    code = parse_qs(urlsplit(ada.page.url).query)["seat"][0]

    phone = new_voter("ada", PHONE)
    phone.page.goto(link)
    phone.page.get_by_text("I started on another device").click()
    phone.page.get_by_label("Your code").fill(code)
    phone.page.get_by_role("button", name="Continue").click()
    phone.wait_for(1)
    phone.press("3")
    phone.wait_for(2)
    assert_votes(database_url, {"ada": 2})
    assert phone.page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]

    expect(phone.page.get_by_test_id("stSidebar")).not_to_be_visible()
    assert phone.page.get_by_role("link").count() == 0
    stranger = new_voter("eve", DESK)
    stranger.page.goto(link + "x")
    expect(stranger.page.get_by_text("There is no such session")).to_be_visible()


def assert_blind(voter: Voter) -> None:
    """Nothing that came to the browser so far tells a lane, a model or a figure."""
    sent = b"".join(voter.frames)
    assert b"Question" in sent
    for telling in (
        *LANES,
        'Marsupial q 0: word word word word word",',
        "interval_s",
        "tok/s",
        "TTFT",
        "ms ·",
    ):
        assert telling.encode() not in sent, telling
    shown = voter.page.content() + voter.page.url
    assert not [lane for lane in LANES if lane in shown]


def assert_votes(database_url: str, expected: dict[str, int]) -> None:
    """Each person's votes are there, one for each item."""
    with closing(Sessions(database_url)) as sessions, closing(Votes(database_url)) as store:
        (session,) = sessions.summaries()
        names = {person.id: person.name for person in store.participants(session.id)}
        votes = store.votes(session.id)
    assert Counter(names[vote.participant_id] for vote in votes) == expected
    assert len({(vote.participant_id, vote.item) for vote in votes}) == len(votes)
