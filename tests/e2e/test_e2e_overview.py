"""The start page and its presentation, on a projector and on a phone."""

import re
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from e2e_dashboard import Chat, settle
from playwright.sync_api import expect

from core.config import load_lanes
from core.settings import Settings
from core.store.runs import BenchRuns
from core.telemetry.nvml import describe_machine
from tests.unit.reports.scorecard_samples import run_of

PROJECTOR = {"width": 1280, "height": 720}
PHONE = {"width": 400, "height": 800}
FITS = "element => element.scrollWidth <= element.clientWidth + 1"
READABLE_PX = 45
"""Height of a figure's line. On a projection two metres wide its digits are then 45 mm tall, which is twice
what a good eye needs at ten metres."""


@pytest.fixture(scope="module", autouse=True)
def measured(dashboard):
    """A benchmark run of two lanes as they are."""
    settings = Settings(
        home=dashboard.home,
        lanes_file=dashboard.home / "lanes.toml",
        database_url=f"sqlite:///{dashboard.home / 'lmdyno.db'}",
    )
    quick, steady, *_others = load_lanes(settings, gpu=False).lanes
    record = run_of({quick: [0.040, 0.042, 0.038, 0.041], steady: [0.010, 0.011, 0.009, 0.010]})
    run = replace(record.run, machine=describe_machine(), created_at=datetime.now(UTC))
    with closing(BenchRuns(settings.database_url)) as runs:
        runs.save(run, record.passes, record.requests)


def tiles_of(page):
    return page.locator("section.tile")


def test_it_opens_at_the_root_and_leads_to_the_chat(page, dashboard):
    page.goto(dashboard.url)
    expect(page).to_have_title("Overview · LMDyno")
    expect(page.get_by_text("steady decodes 4.03 times as fast as quick")).to_be_visible()
    expect(page.get_by_test_id("stTable")).to_contain_text("405 ms")
    page.get_by_role("link", name="Ask all lanes a question").click()
    expect(page).to_have_url(f"{dashboard.url}/chat")


def test_a_closed_introduction_stays_closed(page, dashboard):
    page.goto(dashboard.url)
    introduction = page.get_by_text("LMDyno runs the same prompts")
    expect(introduction).to_be_visible()
    page.get_by_role("button", name="Close").click()
    expect(introduction).to_have_count(0)
    page.wait_for_function("document.cookie.includes('lmdyno_introduction=closed')")
    page.reload()
    expect(page.get_by_role("button", name="What is LMDyno?")).to_be_visible()
    expect(introduction).to_have_count(0)


def test_a_server_that_answers_is_said_to_be_reachable(page, dashboard):
    page.goto(dashboard.url)
    expect(page.locator(".st-key-overview_lane_quick").get_by_text("reachable")).to_be_visible()


def test_a_presentation_can_be_read_from_afar_and_left(page, dashboard):
    page.set_viewport_size(PROJECTOR)
    page.goto(dashboard.url)
    expect(page.get_by_role("button", name="Present")).to_be_visible()
    settle(page)
    page.keyboard.press("Alt+p")
    expect(page).to_have_url(re.compile("present=1"))
    tiles = tiles_of(page)
    expect(tiles).to_have_count(4)
    expect(page.get_by_test_id("stSidebar")).to_have_count(0)
    expect(page.get_by_role("navigation")).to_have_count(0)
    figure = tiles.first.locator("dd").first
    expect(figure).to_have_text("405 ms")
    assert figure.bounding_box()["height"] >= READABLE_PX
    for tile in tiles.all():
        box = tile.bounding_box()
        assert box["y"] + box["height"] <= PROJECTOR["height"]
        for value in tile.locator("dd").all():
            assert value.evaluate(FITS)
    page.keyboard.press("Escape")
    expect(page.get_by_role("navigation")).to_be_visible()
    assert "present" not in page.url


def test_a_presentation_fits_a_phone(page, dashboard):
    page.set_viewport_size(PHONE)
    page.goto(f"{dashboard.url}/?present=1")
    expect(tiles_of(page)).to_have_count(4)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    for value in tiles_of(page).locator("dd").all():
        assert value.evaluate(FITS)


def test_a_turn_is_presented_while_it_streams(page, dashboard):
    chat = Chat(page, dashboard).open(pick=("steady",))
    page.goto(f"{page.url}?present=1")
    chat.input.fill("What is Ohm's law?")
    chat.input.press("Enter")
    tile = tiles_of(page)
    expect(tile).to_contain_text("word3")
    bar = tile.get_by_role("progressbar")
    seen = int(bar.get_attribute("aria-valuenow"))
    page.wait_for_function(
        "([bar, seen]) => Number(bar.getAttribute('aria-valuenow')) > seen || !bar.isConnected",
        arg=[bar.element_handle(), seen],
    )
    chat.stop.click()
    expect(bar).to_have_attribute("aria-valuenow", "100")
