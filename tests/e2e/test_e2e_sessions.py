"""Evaluation sessions in a real browser: a room votes blindly and at once, and every vote is kept once."""

import re
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from secrets import token_hex

import pytest
from e2e_dashboard import Dashboard, started_dashboard
from e2e_voting import DESK, LEAST_VIEW_MS, PHONE, Host, Voter
from playwright.sync_api import Browser, Page, expect

from core.charts.colors import LANE_COLORS
from core.domain.sessions import Display, Session, SessionPlan, Verdict, VotingMode
from core.store.sessions import Sessions, Votes
from tests import postgresql, scripted_server
from tests.scripted_server import Scenario
from tests.unit.sessions.session_samples import answer, open_session, plan

LANES = """
[lanes.veiled-swift]
engine = "endpoint"
url = "{url}"
model = "hidden-model-one"

[lanes.veiled-tardy]
engine = "endpoint"
url = "{url}"
model = "hidden-model-two"
"""
SWIFT_TEXT = "An answer that was written at once, in few words."
TARDY_TEXT = "An answer that was written slowly, word for word."
assert len(SWIFT_TEXT) == len(TARDY_TEXT), "messages with them are of one size"
SCENARIOS = {
    "hidden-model-one": Scenario(text=SWIFT_TEXT),
    "hidden-model-two": Scenario(text=TARDY_TEXT, first_chunk_s=0.1, interval_s=0.01),
}
PROMPTS = ("What is a volt?", "What is an ohm?", "What is a watt?", "What is a henry?")
TOTAL = len(PROMPTS) + 1
"""Votes per person, with one control pair."""
NAMES = ("Ada", "Bob", "Cyd", "Dee", "Eva", "Fay")
TELLTALES = (b"veiled", b"swift", b"tardy", b"hidden-model", "■".encode(), b"tok/s", b"TTFT", b"/v1")
"""Parts of lanes' and models' names, their mark, their figures, and their server's address."""


@pytest.fixture(scope="module")
def server():
    with scripted_server.running(SCENARIOS) as running:
        yield running


@pytest.fixture(scope="module")
def dashboard(tmp_path_factory, server) -> Iterator[Dashboard]:
    with started_dashboard(tmp_path_factory.mktemp("home"), LANES.format(url=server.url)) as running:
        yield running


def database_of(dashboard: Dashboard) -> str:
    return f"sqlite:///{dashboard.home / 'lmdyno.db'}"


def kept_session(url: str, of: SessionPlan, *, texts: tuple[str, ...]) -> Session:
    """A session in that database that people can vote in, with each lane's text as its only answer."""
    prompts = range(len(of.prompts.prompts))
    given = tuple(answer(prompt, lane, text=text) for prompt in prompts for lane, text in enumerate(texts))
    with closing(Sessions(url)) as sessions:
        session = sessions.create(open_session(of, given, link=f"link-{token_hex(4)}"))
        sessions.save_answers(session.id, given)
    return session


def choices_in(url: str, session_id: str) -> dict[str, list[tuple[str, str]]]:
    """By participant: prompt and preferred text of each stored vote."""
    with closing(Sessions(url)) as sessions, closing(Votes(url)) as votes:
        session = sessions.session(session_id)
        names = {person.id: person.name for person in votes.participants(session_id)}
        stored: dict[str, list[tuple[str, str]]] = {name: [] for name in names.values()}
        for vote in votes.votes(session_id):
            assert vote.verdict is Verdict.PREFERRED
            item = session.items[vote.item]
            (best,) = sessions.answers_to(session_id, item.prompt, [item.candidates[vote.order[0]]])
            prompt = session.plan.prompts.prompts[item.prompt].text
            stored[names[vote.participant_id]].append((prompt, best.record.text.strip()))
    return stored


def vote_with_key(voters: list[Voter], key: str, letter: str, *, total: int) -> None:
    """All press the key at the same time; each goes on once the page says that the vote was given."""
    done = [voter.done() for voter in voters]
    chosen = [(voter.prompt, voter.text(letter)) for voter in voters]
    voters[0].page.wait_for_timeout(LEAST_VIEW_MS)
    for voter in voters:
        voter.page.keyboard.press(key)
    for voter, before, choice in zip(voters, done, chosen, strict=True):
        voter.expect_done(before + 1, total)
        voter.choices.append(choice)


def assert_nothing_tells_the_lane(voter: Voter) -> None:
    """Neither what was sent, nor what was asked for, nor what the page holds."""
    assert voter.sent.frames, "nothing was recorded"
    colors = [color.encode() for color in LANE_COLORS]
    drawn = voter.page.content().encode()
    for telltale in (*TELLTALES, *colors):
        assert telltale.lower() not in drawn.lower(), f"{telltale!r} is in the page"
    for telltale in TELLTALES:
        assert not any(telltale.lower() in frame.lower() for frame in voter.sent.frames), telltale
        assert not any(telltale.decode().lower() in url.lower() for url in voter.sent.urls), telltale


def assert_no_horizontal_overflow(page: Page) -> None:
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


def assert_answers_came_by_position(voter: Voter) -> None:
    """The left answer before the right one, whichever lane wrote it."""
    frames = voter.sent.take_frames()
    left, right = (voter.text(letter).encode() for letter in "AB")
    if left != right:
        places = [next(n for n, frame in enumerate(frames) if text in frame) for text in (left, right)]
        assert places == sorted(places)


def assert_sizes_are_the_same(voter: Voter) -> None:
    """Texts of one length make messages of one size, whichever lane wrote them."""
    sizes = [
        {len(frame) for frame in voter.sent.frames if text.encode() in frame}
        for text in (SWIFT_TEXT, TARDY_TEXT)
    ]
    assert sizes[0] == sizes[1] != set()


def test_a_room_of_six_votes_at_once_and_every_vote_counts_once(
    page: Page, browser: Browser, dashboard: Dashboard
) -> None:
    host = Host(page, dashboard.url)
    host.create("Which one?", lanes=("veiled-swift", "veiled-tardy"), prompts=PROMPTS)
    link = host.open_voting()
    session_id = page.url.rsplit("id=", 1)[1]

    windows = [PHONE if name == "Cyd" else DESK for name in NAMES]
    voters = [Voter(browser, link, name, **window) for name, window in zip(NAMES, windows, strict=True)]
    try:
        for voter in voters:
            voter.join()
        for voter in voters:
            voter.expect_done(0, TOTAL)
        ada, bob, phone, reloading, closing_one, _fay = voters
        assert_no_horizontal_overflow(phone.page)

        for voter in voters:
            assert_answers_came_by_position(voter)
        vote_with_key(voters, "1", "A", total=TOTAL)
        for voter in voters:
            assert_nothing_tells_the_lane(voter)
            assert_answers_came_by_position(voter)

        # One of them reloads while the vote is on its way, another closes the browser and goes on elsewhere.
        code = closing_one.code
        closing_one.close()
        choice = (reloading.prompt, reloading.text("B"))
        reloading.page.wait_for_timeout(LEAST_VIEW_MS)
        reloading.page.keyboard.press("3")
        reloading.page.reload()
        if (done := reloading.done()) == 2:
            reloading.choices.append(choice)
        reloading.expect_done(done, TOTAL)
        closing_one.continue_on_another_device(code)
        closing_one.expect_done(1, TOTAL)

        # The phone votes by touch, takes the vote back and gives another one.
        phone.page.wait_for_timeout(LEAST_VIEW_MS)
        phone.page.get_by_role("button", name="Tie").tap()
        phone.expect_done(2, TOTAL)
        phone.page.get_by_role("button", name="Undo").tap()
        phone.expect_done(1, TOTAL)

        while voting := [voter for voter in voters if len(voter.choices) < TOTAL]:
            key, letter = ("1", "A") if len(voting[0].choices) % 2 else ("3", "B")
            for voter in voting:
                assert_nothing_tells_the_lane(voter)
            if len(voting[0].choices) == TOTAL - 1:
                assert_sizes_are_the_same(voting[0])
            vote_with_key(voting, key, letter, total=TOTAL)

        for name in NAMES:
            host.expect_progress(name, TOTAL, TOTAL)
        stored = choices_in(database_of(dashboard), session_id)
        assert {name: Counter(choices) for name, choices in stored.items()} == {
            voter.name: Counter(voter.choices) for voter in voters
        }

        # Blind until the end; then the lanes have names.
        expect(ada.page.get_by_text("which would you deploy")).to_be_visible()
        expect(ada.page.get_by_text("veiled-swift").first).to_be_visible()
        ada.page.keyboard.press("1")
        expect(ada.page.get_by_text("Thank you for voting")).to_be_visible()
        host.page.get_by_role("button", name="Close voting").click()
        expect(host.page.get_by_text("6 people · 24 votes")).to_be_visible()
        expect(ada.page.get_by_text("Voting has ended")).to_be_visible()
        expect(bob.page.get_by_text("which would you deploy")).to_be_visible()
    finally:
        for voter in voters:
            voter.close()


def test_answers_of_fast_and_slow_lanes_are_replayed_at_one_pace_and_ranked(
    browser: Browser, dashboard: Dashboard
) -> None:
    lanes = ("veiled-swift", "veiled-tardy", "veiled-third")
    texts = tuple(" ".join([word] * 40) for word in ("zebra", "tiger", "camel"))
    url = database_of(dashboard)
    session = kept_session(
        url,
        plan(*lanes, prompts=2, mode=VotingMode.RANKING, display=Display.REPLAYED, replay_chars_per_s=400),
        texts=texts,
    )
    voter = Voter(browser, f"{dashboard.url}/?session={session.link}", "Ada")
    try:
        voter.join()
        for done in range(2):
            voter.expect_done(done, 2)
            lengths = grown_lengths(voter.sent.take_frames(), [text.split(" ")[0] for text in texts])
            assert len(lengths) > 3, "the answers came at once"
            assert all(max(step) == min(step) for step in lengths), "an answer was ahead of the others"
            voter.page.wait_for_timeout(LEAST_VIEW_MS)
            best, second = voter.text("B"), voter.text("A")
            voter.page.keyboard.press("2")
            expect(voter.page.get_by_role("button", name="B · 1.")).to_be_disabled()
            voter.page.keyboard.press("1")
            voter.choices.append((best, second))
        expect(voter.page.get_by_text("That was all")).to_be_visible()
        assert_nothing_tells_the_lane(voter)
        with closing(Votes(url)) as votes:
            stored = votes.votes(session.id)
        assert Counter(
            tuple(texts[session.items[vote.item].candidates[place].lane] for place in vote.order[:2])
            for vote in stored
        ) == Counter(voter.choices)
    finally:
        voter.close()


def grown_lengths(frames: list[bytes], words: list[str]) -> list[tuple[int, ...]]:
    """How many words of each answer the page had, whenever it had been sent all of them anew."""
    counts = [[len(re.findall(word.encode(), frame)) for frame in frames] for word in words]
    by_word = [[count for count in series if count] for series in counts]
    return list(zip(*by_word, strict=False))


def test_a_room_on_postgresql_votes_at_once_and_every_vote_counts_once(
    browser: Browser, server, tmp_path: Path
) -> None:
    with postgresql.running() as folder:
        url = postgresql.new_database(folder)
        with started_dashboard(
            tmp_path / "home", LANES.format(url=server.url), LMDYNO_DATABASE_URL=url
        ) as dashboard:
            pairs = plan("veiled-swift", "veiled-tardy", prompts=3)
            session = kept_session(url, pairs, texts=(SWIFT_TEXT, TARDY_TEXT))
            link = f"{dashboard.url}/?session={session.link}"
            voters = [Voter(browser, link, name) for name in NAMES[:3]]
            try:
                for voter in voters:
                    voter.join()
                for voter in voters:
                    voter.expect_done(0, 3)
                vote_with_key(voters, "1", "A", total=3)
                voters[1].page.reload()
                voters[1].expect_done(1, 3)
                vote_with_key(voters, "3", "B", total=3)
                vote_with_key(voters, "1", "A", total=3)
                stored = choices_in(url, session.id)
            finally:
                for voter in voters:
                    voter.close()
    assert {name: Counter(choices) for name, choices in stored.items()} == {
        voter.name: Counter(voter.choices) for voter in voters
    }
