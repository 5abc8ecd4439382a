"""What a room sees: answers fit their boxes and stay in view from their beginning, beside the prompt."""

import base64
import json

import pytest
from e2e_dashboard import Chat, pick_lanes, settle
from playwright.sync_api import Page, expect

from tests import scripted_server

SHORT = "It is H2O."
LONG = "\n\n".join(f"Paragraph {number} with some words to fill the line." for number in range(60))
LANES = """
[lanes.quick]
engine = "endpoint"
url = "{url}"
model = "short"
vision = true

[lanes.steady]
engine = "endpoint"
url = "{url}"
model = "long"
vision = true
"""
SIZES = [{"width": 1280, "height": 800}, {"width": 400, "height": 860}]


@pytest.fixture(scope="session")
def server():
    scenarios = {
        "short": scripted_server.Scenario(text=SHORT),
        "long": scripted_server.Scenario(text=LONG),
    }
    with scripted_server.running(scenarios=scenarios) as running:
        yield running


@pytest.fixture(scope="session")
def lanes(server) -> str:
    return LANES.format(url=server.url)


def opened(chat: Chat, *lanes: str) -> None:
    """A new conversation with these lanes picked."""
    chat.page.goto(chat.url)
    settle(chat.page)
    pick_lanes(chat.page, *lanes)


def asked(chat: Chat, *lanes: str) -> None:
    """A conversation whose first prompt these lanes have answered."""
    opened(chat, *lanes)
    chat.ask("What is water?")
    expect(chat.regenerate).to_be_visible()
    settle(chat.page)


def overflow_px(page: Page, lane: str) -> int:
    """How much of a lane's answer its box hides."""
    return page.locator(f"[class*='st-key-answer_{lane}_']").last.evaluate(
        "box => box.scrollHeight - box.clientHeight"
    )


def test_a_short_answer_fits_its_box(chat):
    asked(chat, "quick")
    assert overflow_px(chat.page, "quick") <= 1


def test_a_long_answer_begins_in_view_and_can_be_expanded(chat):
    asked(chat, "quick", "steady")
    beginning = chat.answer("steady").last.get_by_text("Paragraph 0 with")
    expect(beginning).to_be_in_viewport()
    expect(chat.answer("quick").last.get_by_text(SHORT)).to_be_in_viewport()
    expect(chat.input).to_be_in_viewport()
    assert overflow_px(chat.page, "steady") > 100
    chat.page.get_by_role("button", name="Expand answers").click()
    expect(chat.page.get_by_role("button", name="Fold answers")).to_be_visible()
    chat.wait_until(lambda: overflow_px(chat.page, "steady") <= 1)


def height_px(chat: Chat, lane: str) -> float:
    box = chat.answer(lane).last.bounding_box()
    return box["height"] if box else 0


def test_a_short_answer_beside_a_long_one_has_a_low_box(chat):
    asked(chat, "quick", "steady")
    for size in SIZES:
        chat.page.set_viewport_size(size)
        chat.wait_until(lambda: 0 < height_px(chat, "quick") < height_px(chat, "steady") / 2)
        assert overflow_px(chat.page, "quick") <= 1


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size['width']}px")
def test_the_newest_turn_s_beginning_and_the_prompt_are_in_view(browser, dashboard, size):
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    page = context.new_page()
    chat = Chat(page, dashboard)
    try:
        asked(chat, "quick", "steady")
        page.set_viewport_size(size)
        chat.ask("And what is ice?")
        expect(chat.regenerate).to_be_visible()
        settle(page)
        expect(page.get_by_text("And what is ice?")).to_be_in_viewport()
        expect(chat.input).to_be_in_viewport()
    finally:
        context.close()


def test_vision_opens_at_its_top(page, dashboard):
    page.goto(f"{dashboard.url}/chat")
    settle(page)
    page.get_by_role("link", name="Vision").click()
    expect(page.get_by_role("tab", name="Conversation")).to_be_in_viewport()
    settle(page)
    expect(page.get_by_role("tab", name="Conversation")).to_be_in_viewport()
    expect(page.get_by_role("heading", level=1)).to_be_in_viewport()


def remembered(chat: Chat) -> dict[str, object]:
    """The settings in the browser's cookie; empty without one."""
    cookies = {cookie["name"]: cookie["value"] for cookie in chat.page.context.cookies()}
    content = base64.urlsafe_b64decode(cookies.get("lmdyno_chat", "e30="))
    settings: dict[str, object] = json.loads(content)
    return settings


def test_settings_of_a_new_conversation_survive_a_reload(chat):
    opened(chat, "steady")
    chat.page.get_by_role("radio", name="Together").click()
    settle(chat.page)
    chat.wait_until(lambda: remembered(chat).get("mode") == "together")
    chat.page.reload()
    settle(chat.page)
    sidebar = chat.page.get_by_test_id("stSidebar")
    expect(sidebar.get_by_role("button", name="■ steady")).to_have_attribute("aria-pressed", "true")
    expect(sidebar.get_by_role("button", name="■ quick")).to_have_attribute("aria-pressed", "false")
    expect(chat.page.get_by_role("radio", name="Together")).to_be_checked()


def test_a_second_tab_shows_what_was_asked_in_the_first(chat, dashboard):
    asked(chat, "quick")
    other = chat.page.context.new_page()
    other.goto(chat.page.url)
    settle(other)
    chat.ask("And what is ice?")
    expect(other.get_by_test_id("stChatMessage").get_by_text("And what is ice?")).to_be_visible()
