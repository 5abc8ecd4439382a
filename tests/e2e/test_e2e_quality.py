"""The quality page in a real browser: a comparison from the form to its charts, over two scripted lanes."""

import json
import re
from collections.abc import Iterator

import pytest
from e2e_dashboard import Dashboard, settle, started_dashboard
from playwright.sync_api import Page, expect

from tests import scripted_server
from tests.scripted_server import Scenario

LANES = """
[lanes.careful]
engine = "endpoint"
url = "{url}"
model = "four"

[lanes.careless]
engine = "endpoint"
url = "{url}"
model = "five"
"""
TASKS = [
    {
        "id": f"sum-{number}",
        "prompt": f"What is {number} + {4 - number}?",
        "grader": "number",
        "answers": ["4"],
    }
    for number in range(8)
]
JOB_MS = 90_000


@pytest.fixture(scope="module")
def dashboard(tmp_path_factory) -> Iterator[Dashboard]:
    scenarios = {
        "four": Scenario(text="The sum is 4", first_chunk_s=0.01, interval_s=0.01),
        "five": Scenario(text="The sum is 5", first_chunk_s=0.01, interval_s=0.005),
    }
    with (
        scripted_server.running(scenarios) as server,
        started_dashboard(tmp_path_factory.mktemp("home"), LANES.format(url=server.url)) as running,
    ):
        yield running


def test_a_lane_that_answers_wrongly_is_told_with_its_price(page: Page, dashboard: Dashboard) -> None:
    page.goto(f"{dashboard.url}/quality")
    settle(page)
    sets = page.get_by_test_id("stButtonGroup").filter(has_text="Tasks with known answers")
    chosen = sets.get_by_role("button", pressed=True)
    for left in (2, 1):
        expect(chosen).to_have_count(left)
        chosen.first.click()
    expect(chosen).to_have_count(0)
    page.get_by_test_id("stFileUploaderDropzoneInput").first.set_input_files(
        {
            "name": "sums.jsonl",
            "mimeType": "application/jsonl",
            "buffer": "\n".join(map(json.dumps, TASKS)).encode(),
        }
    )
    expect(page.get_by_text("sums.jsonl")).to_be_visible()
    page.get_by_role("button", name="Compare").click()

    worse = page.get_by_text("careless is measurably worse than careful.")
    expect(worse).to_be_visible(timeout=JOB_MS)
    expect(page.get_by_text(re.compile(r"0 of 8 tasks are correct.*8 are lost"))).to_be_visible()
    expect(page.get_by_text("Quality against speed; area: Memory")).to_be_visible()
    expect(page.get_by_text("Different", exact=True)).to_be_visible(timeout=JOB_MS)  # the run has ended
    settle(page)
    traces = page.locator(".js-plotly-plot").first.evaluate("plot => plot.data.map(t => [t.name, t.y[0]])")
    assert dict(traces) == {"careful": 1, "careless": 0}
    expect(page.get_by_text("What is 0 + 4?")).to_be_visible()

    page.set_viewport_size({"width": 400, "height": 800})
    settle(page)
    expect(worse).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    assert page.get_by_test_id("stMain").evaluate("main => main.scrollWidth <= main.clientWidth")
