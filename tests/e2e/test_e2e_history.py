"""The history page in a browser: over load tests that the test puts into the dashboard's store."""

import re
from datetime import UTC, datetime, timedelta

import pytest
from e2e_dashboard import settle
from playwright.sync_api import expect

from core.bench.results.result import summarise
from core.domain.runs import HistoryFilter
from core.store.history import History
from core.store.runs import BenchRuns
from tests.unit.bench.bench_samples import a_pass, a_plan, a_record, a_request, a_timing, remote

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
ROW_PX = 35
BOX_PX, OPEN_PX = 16, 57
"""Where the columns with the boxes and the buttons are; the table is a canvas, without elements to click."""


@pytest.fixture(scope="module")
def runs(dashboard):
    """Three load tests, the newest first; each decodes slower than the one after it."""
    url = f"sqlite:///{dashboard.home / 'lmdyno.db'}"
    store, history = BenchRuns(url), History(url)
    found = []
    for number, title in enumerate(("newest", "middle", "oldest")):
        plan = a_plan(remote("quick"), title=title, created_at=NOON - timedelta(hours=number))
        requests = [
            a_request(place, "quick", timing=a_timing(gap_s=0.01 * (3 - number) * (1 + place / 100)))
            for place in range(6)
        ]
        record = a_record(plan, [a_pass(0, ("quick",))], requests)
        store.save(record.run, record.passes, record.requests)
        found.append(record.run.id)
    # The list would draw its table a second time when it has made these.
    for entry in history.entries(HistoryFilter(), limit=3):
        history.keep_summary(entry.id, entry.updated_at, summarise(store.record(entry.id)))
    store.close()
    history.close()
    return found


@pytest.fixture
def history(page, dashboard, runs):
    page.goto(f"{dashboard.url}/history")
    expect(page.get_by_text(re.compile("1 to 3 of 3"))).to_be_visible()
    settle(page)
    return page


def click_row(page, row, x=BOX_PX):
    page.get_by_test_id("stDataFrame").click(position={"x": x, "y": ROW_PX * (row + 1.5)})


def test_a_comparison_can_be_linked(history, browser, runs):
    click_row(history, 0)
    expect(history.get_by_role("button", name="Open", exact=False).first).to_be_enabled()
    click_row(history, 2)
    history.get_by_role("button", name="Compare").click()
    expect(history.locator(".js-plotly-plot")).to_have_count(5)
    history.get_by_role("radio", name="B", exact=True).click()
    expect(history).to_have_url(re.compile(f"baseline={runs[2]}"))
    history.get_by_role("radio", name="TPOT, mean").click()
    expect(history.get_by_text("+200.0%").first).to_be_visible()
    history.get_by_role("button", name="Link").click()
    link = history.get_by_test_id("stCode").inner_text().strip()
    assert link.endswith(f"/history?compare={runs[0]},{runs[2]}&baseline={runs[2]}")

    other = browser.new_context()
    tab = other.new_page()
    tab.goto(link)
    expect(tab.locator(".js-plotly-plot")).to_have_count(5)
    expect(tab.get_by_role("radio", name="B", exact=True)).to_have_attribute("aria-checked", "true")
    expect(tab.get_by_role("link", name="oldest")).to_be_visible()
    other.close()


def test_a_row_opens_its_run_and_back_leads_to_the_list(history, runs):
    click_row(history, 1, OPEN_PX)
    expect(history).to_have_url(re.compile(f"run={runs[1]}"))
    expect(history.get_by_text("middle")).to_be_visible()
    history.go_back()
    expect(history.get_by_text(re.compile("1 to 3 of 3"))).to_be_visible()


def test_a_new_tag_can_be_written(history):
    click_row(history, 0)
    history.get_by_role("button", name="Tag", exact=False).click()
    field = history.get_by_role("combobox", name="Tag").last
    field.fill("release 7")
    field.press("Enter")
    history.get_by_role("button", name="Tag 1 entry").click()
    expect(history.get_by_text("1 entry tagged")).to_be_visible()
    expect(history.get_by_text("Tag 0 entries")).to_have_count(0)


def test_the_report_opens_without_a_server(history, runs, browser, tmp_path):
    click_row(history, 0, OPEN_PX)
    with history.expect_download() as download:
        history.get_by_role("button", name="HTML").click()
    file = tmp_path / "report.html"
    download.value.save_as(file)

    offline = browser.new_context(offline=True)
    tab = offline.new_page()
    errors = []
    tab.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    tab.on("pageerror", lambda error: errors.append(str(error)))
    tab.goto(file.as_uri())
    expect(tab.locator(".js-plotly-plot .main-svg").first).to_be_visible()
    assert tab.locator(".js-plotly-plot").count() >= 5
    assert errors == []
    offline.close()


def test_an_export_is_imported_again(history, runs, tmp_path):
    click_row(history, 0, OPEN_PX)
    with history.expect_download() as download:
        history.get_by_role("button", name="JSON").click()
    file = tmp_path / "run.json"
    download.value.save_as(file)
    history.get_by_role("button", name="Back to history").click()
    history.get_by_role("button", name="Import").click()
    history.locator("input[type=file]").set_input_files(file)
    expect(history.get_by_text(re.compile("already exists"))).to_be_visible()
    expect(history).to_have_url(re.compile(f"run={runs[0]}"))
