"""A load test in the browser: started, watched, reloaded in the middle, stopped, and looked at."""

import json
import re

import pytest
from e2e_dashboard import started_dashboard
from playwright.sync_api import expect

STEADY = json.dumps({"chunks": 16, "first_chunk_s": 0.05, "interval_s": 0.01})
LANES = """
[lanes.steady]
engine = "endpoint"
url = "{url}"
model = '{model}'
"""


@pytest.fixture(scope="module")
def dashboard(tmp_path_factory, server):
    home = tmp_path_factory.mktemp("bench")
    with started_dashboard(home, LANES.format(url=server.url, model=STEADY)) as running:
        yield running


def answered(page) -> int:
    figure = page.get_by_test_id("stMetric").filter(has_text="Answered")
    expect(figure).to_be_visible()
    return int(figure.get_by_test_id("stMetricValue").inner_text())


def wait_for_answers(page, more_than):
    for _ in range(60):
        if answered(page) > more_than:
            return
        page.wait_for_timeout(500)
    raise AssertionError("no further request was answered")


def test_a_run_is_watched_reloaded_and_stopped_with_what_it_has(page, dashboard):
    page.goto(f"{dashboard.url}/benchmark")
    expect(page.get_by_text("Nothing has been measured yet")).to_be_visible()
    page.get_by_role("button", name="Start").click()
    bar = page.get_by_test_id("stProgress")
    expect(bar).to_contain_text(re.compile(r"[Ss]teady"))
    wait_for_answers(page, 2)
    dots = page.locator(".st-key-bench_live_chart .js-plotly-plot .scatterlayer .point")
    expect(dots.first).to_be_attached()

    page.reload()
    expect(bar).to_contain_text(re.compile(r"[Ss]teady"))
    seen = answered(page)
    wait_for_answers(page, seen)

    page.get_by_role("button", name="Stop").click()
    expect(bar).to_have_count(0)
    result = page.get_by_test_id("stMain")
    expect(result.get_by_text("stopped", exact=True)).to_be_visible()
    expect(result.get_by_role("cell", name="■ steady").first).to_be_visible()

    lines = page.locator(".st-key-bench_result_ttft .js-plotly-plot .scatterlayer .js-line")
    expect(lines.first).to_be_attached()
    result.get_by_role("tab", name="Timeline").click()
    expect(
        page.locator(".st-key-bench_result_timeline .js-plotly-plot .barlayer .point").first
    ).to_be_attached()
    result.get_by_role("radio", name="SVG").click()
    page.wait_for_timeout(1500)
    with page.expect_download() as download:
        page.locator(".st-key-bench_result_timeline .modebar-btn").first.click(force=True)
    assert download.value.suggested_filename.endswith(".svg")
    with page.expect_download() as download:
        result.get_by_role("button", name="JSON").click()
    document = json.loads(download.value.path().read_text())
    assert document["state"] == "stopped"
    assert document["points"][0]["requests"]["ok"] > 2
