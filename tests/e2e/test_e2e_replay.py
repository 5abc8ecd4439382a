"""A dashboard that only replays: the recording that comes with LMDyno, in the browser."""

import re

import pytest
from e2e_dashboard import started_dashboard
from playwright.sync_api import expect


@pytest.fixture(scope="module")
def replaying(tmp_path_factory):
    with started_dashboard(tmp_path_factory.mktemp("replay"), "", LMDYNO_MODE="replay") as dashboard:
        yield dashboard


def control(page, name):
    return page.get_by_role("button", name=name, exact=True)


def test_the_demo_plays_pauses_and_ends(replaying, page):
    page.goto(replaying.url)
    expect(page.get_by_text(re.compile("Recorded on .*NVIDIA H200, 2026-11-29")).first).to_be_visible()
    control(page, "Play").click()
    expect(page.get_by_text("Tokyo").first).to_be_visible()
    control(page, "Pause").click()
    expect(page.get_by_role("slider")).to_be_visible()
    expect(control(page, "Pause")).to_have_count(0)
    page.get_by_role("radio", name="20×").or_(control(page, "20×")).first.click()
    control(page, "Play").click()
    expect(control(page, "Play again")).to_be_visible(timeout=30_000)
    expect(page.get_by_text("10. Publish the demo")).to_be_attached()


def test_a_recorded_turn_is_in_the_history_and_can_not_be_changed(replaying, page):
    page.goto(f"{replaying.url}/history")
    expect(page.get_by_text("1 to 9 of 9")).to_be_visible()
    for name in ("Delete", "Import", "Tag"):
        expect(control(page, name)).to_have_count(0)
    navigation = page.get_by_role("navigation")
    expect(navigation.get_by_role("link", name="Recordings")).to_be_visible()
    for name in ("Chat", "Engines", "Benchmark"):
        expect(navigation.get_by_role("link", name=name)).to_have_count(0)
