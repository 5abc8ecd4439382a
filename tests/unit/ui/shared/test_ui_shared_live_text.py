from contextlib import nullcontext
from types import SimpleNamespace

import pytest

from core.ui.shared import live_text
from core.ui.shared.live_text import (
    BLOCK_LIMIT,
    MIN_INTERVAL_S,
    OPENING_INTERVAL_S,
    OPENING_S,
    LiveText,
    draw,
)

OPENED_S = 1000.001

CELLS = "| a " * 60 + "|\n"
TABLE = CELLS + "|---" * 60 + "|\n"


class Browser:
    """What is on the page, slot by slot, and a clock."""

    def __init__(self) -> None:
        self.now_s = OPENED_S
        self.slots: list[str] = []
        self.sent: list[str] = []

    def empty(self):
        place = len(self.slots)
        self.slots.append("")
        return SimpleNamespace(
            markdown=lambda text, **_: self._write(place, text), container=lambda: nullcontext(place)
        )

    def fold(self, text: str) -> None:
        self._write(len(self.slots) - 1, f"folded from {text[:4]}")

    def _write(self, place: int, text: str) -> None:
        self.slots[place] = text
        self.sent.append(text)


@pytest.fixture
def browser(monkeypatch) -> Browser:
    browser = Browser()
    monkeypatch.setattr(live_text.st, "container", lambda **_: browser)
    monkeypatch.setattr(live_text, "monotonic", lambda: browser.now_s)
    monkeypatch.setattr(live_text, "show_folded", lambda text, key: browser.fold(text))
    return browser


def test_first_text_is_drawn_at_once_even_while_the_page_opens(browser):
    text = LiveText(opened_s=OPENED_S)
    browser.now_s += 0.013
    text.append("Ohm")
    text.draw()
    assert browser.slots == ["Ohm"]


@pytest.mark.parametrize(
    ("age_s", "interval_s"), [(0.0, OPENING_INTERVAL_S), (OPENING_S, MIN_INTERVAL_S)], ids=["opening", "open"]
)
def test_later_text_waits_for_the_beat(browser, age_s, interval_s):
    browser.now_s = OPENED_S + age_s
    text = LiveText(opened_s=OPENED_S)
    text.append("Ohm")
    text.draw()
    text.append("'s law")
    browser.now_s += interval_s * 0.9
    text.draw()
    assert browser.slots == ["Ohm"]
    browser.now_s += interval_s * 0.2
    text.draw()
    assert browser.slots == ["Ohm's law"]


def test_last_text_waits_for_nothing(browser):
    text = LiveText(opened_s=OPENED_S)
    text.append("Ohm")
    text.draw()
    text.append("'s law")
    text.draw(final=True)
    assert browser.slots == ["Ohm's law"]


def test_finished_block_is_not_sent_with_every_piece_of_the_next(browser):
    text = LiveText()
    for piece in ("One.\n\n", "Two begins", " and", " goes on"):
        text.append(piece)
        browser.now_s += 1
        text.draw()
    assert browser.slots == ["One.", "Two begins and goes on"]
    assert browser.sent[-2:] == ["Two begins and", "Two begins and goes on"]


def test_nothing_new_is_nothing_sent(browser):
    text = LiveText()
    text.append("Ohm")
    for _ in range(3):
        browser.now_s += 1
        text.draw()
    assert browser.sent == ["Ohm"]


def test_a_block_too_large_to_draw_is_folded_once(browser):
    text = LiveText()
    for _ in range(3):
        text.append("- item\n" * 2_000)
        browser.now_s += 60
        text.draw()
    text.append("\nThe end.")
    text.draw(final=True)
    assert browser.sent == ["folded from - it", "The end."]


def test_what_comes_after_a_text_is_full_is_folded_once(browser):
    text = LiveText()
    for _ in range(3):
        text.append("word\n\n" * 600)
        browser.now_s += 60
        text.draw()
    text.draw(final=True)
    assert "folded from word" in browser.sent
    assert browser.sent.index("folded from word") == len(browser.sent) - 1
    assert 600 < len(browser.sent) < 900


@pytest.mark.parametrize(
    "block",
    [
        TABLE + CELLS * 400,
        "$x$ " * 300,
        "word " * 200_000,
        "x" * 100_000,
        "- a\n" * 2_000,
        "```python\n" + "x = 1\n" * 20_000 + "```",
    ],
    ids=["table", "formulas", "words", "word", "list", "code"],
)
def test_a_block_that_would_hold_a_browser_up_is_folded(block):
    assert draw(block, {}).markdown is None


@pytest.mark.parametrize(
    "block",
    [
        TABLE + CELLS * 5,
        "The mass $m$ and its energy $E = mc^2$. " * 20,
        "word " * 8_000,
        "- an item of a list\n" * 200,
        "```python\n" + "x = 1\n" * 1_000 + "```",
    ],
    ids=["table", "formulas", "words", "list", "code"],
)
def test_what_models_usually_write_is_drawn(block):
    drawn = draw(block, {})
    assert drawn.markdown
    assert 0 < drawn.cost <= BLOCK_LIMIT


@pytest.mark.parametrize("brackets", ["[" * 20_000, "> " + "![" * 8_000, "# " + "[a](" * 5_000])
def test_brackets_that_would_hold_the_parser_up_are_folded(monkeypatch, brackets):
    monkeypatch.setattr(live_text, "parse", lambda *_: pytest.fail("it was parsed"))
    assert draw(brackets, {}).markdown is None


@pytest.mark.parametrize(
    "text", ["```\n" + "[1, 2], " * 2_000 + "\n```", "[a](http://h) " * 300, "- [x] y\n" * 100]
)
def test_brackets_that_cost_nothing_are_drawn(text):
    assert draw(text, {}).markdown is not None
