"""A load test in the browser: started, watched, left alone by page and dashboard, stopped, and looked at."""

import json
import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from e2e_dashboard import Dashboard, settle, started_dashboard
from playwright.sync_api import expect

from core.bench.run.job import running_benches, stop_bench
from core.settings import Settings

STEADY = json.dumps({"chunks": 16, "first_chunk_s": 0.05, "interval_s": 0.01})
DOTS = ".st-key-bench_live_chart .js-plotly-plot .scatterlayer .point"
LANES = """
[lanes.steady]
engine = "endpoint"
url = "{url}"
model = '{model}'
"""


@contextmanager
def bench_dashboard(home: Path, server) -> Iterator[Dashboard]:
    with started_dashboard(home, LANES.format(url=server.url, model=STEADY)) as running:
        yield running
    settings = Settings(home=home, lanes_file=home / "lanes.toml", database_url="")
    for job in running_benches(settings):  # of a test that failed: it would go on without server and page
        stop_bench(settings, job.id)


@pytest.fixture(scope="module")
def dashboard(tmp_path_factory, server) -> Iterator[Dashboard]:
    with bench_dashboard(tmp_path_factory.mktemp("bench"), server) as running:
        yield running


@pytest.fixture
def own_dashboard(tmp_path, server) -> Iterator[Dashboard]:
    """One that a test may end and start again."""
    with bench_dashboard(tmp_path, server) as running:
        yield running


class SlowServer:
    """Between page and dashboard: can keep what the dashboard says until it is let through."""

    def __init__(self, page) -> None:
        self.sent = 0
        """Messages of the page so far."""
        self._kept: list | None = None
        self._page = page
        page.route_web_socket("**/_stcore/stream", self._connect)

    def _connect(self, route) -> None:
        dashboard = route.connect_to_server()

        def to_dashboard(message) -> None:
            self.sent += 1
            dashboard.send(message)

        def to_page(message) -> None:
            if self._kept is None:
                route.send(message)
            else:
                self._kept.append(message)

        route.on_message(to_dashboard)
        dashboard.on_message(to_page)
        self._to_page = route.send

    @contextmanager
    def keeping(self, *, messages: int) -> Iterator[None]:
        """Nothing reaches the page until the block has ended and the page has sent so many messages."""
        self._kept, wanted = [], self.sent + messages
        yield
        while self.sent < wanted:
            self._page.wait_for_timeout(50)
        kept, self._kept = self._kept, None
        for message in kept:
            self._to_page(message)


def open_form(page, dashboard) -> None:
    page.goto(f"{dashboard.url}/benchmark")
    expect(page.get_by_text("There are no results yet")).to_be_visible()


def fill(page, label: str, value: str) -> None:
    page.get_by_label(label, exact=True).fill(value)
    page.keyboard.press("Enter")


def start_run(page, dashboard) -> None:
    """A run of one point that lasts until it is stopped."""
    open_form(page, dashboard)
    fill(page, "Concurrency", "1")
    fill(page, "Seconds per point", "600")
    expect(page.get_by_text("Estimated duration: 10 min")).to_be_visible()
    page.get_by_role("button", name="Start").click()


def answered(page) -> int:
    figure = page.get_by_test_id("stMetric").filter(has_text="Answered")
    expect(figure).to_be_visible()
    return int(figure.get_by_test_id("stMetricValue").inner_text())


def wait_for_answers(page, more_than):
    for _ in range(120):
        if answered(page) > more_than:
            return
        page.wait_for_timeout(500)
    raise AssertionError("no further request was answered")


def test_what_is_entered_stays_although_the_server_is_slow(page, dashboard):
    """A preset and its fields change each other; a message with the values before must not undo that."""
    server = SlowServer(page)
    open_form(page, dashboard)
    with server.keeping(messages=2):
        fill(page, "Concurrency", "3")
        fill(page, "Seconds per point", "50")
    expect(page.get_by_text("Load: concurrency 3 · Each point: 50 s")).to_be_visible()
    expect(page.get_by_label("Concurrency", exact=True)).to_have_value("3")

    chat = page.get_by_role("radio", name="Chat")
    with server.keeping(messages=3):  # the click's, and those of the clock that refreshes runs around it
        chat.click()
    expect(page.get_by_text("Load: concurrency 1, 2, 4, 8, 16")).to_be_visible()
    with server.keeping(messages=1):
        page.get_by_test_id("stMain").press("r")  # draws the whole page, as it is now, again
    settle(page)
    expect(chat).to_be_checked()


def test_a_run_is_watched_reloaded_and_stopped_with_what_it_has(page, dashboard):
    start_run(page, dashboard)
    bar = page.get_by_test_id("stProgress")
    expect(bar).to_contain_text(re.compile(r"[Ss]teady"))
    wait_for_answers(page, 2)
    expect(page.locator(DOTS).first).to_be_attached()

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
    button = page.locator(".st-key-bench_result_timeline .modebar-btn").first
    expect(button).to_have_attribute("data-title", "Download plot")  # no longer "… as a PNG"
    with page.expect_download() as download:
        button.click(force=True)
    assert download.value.suggested_filename.endswith(".svg")
    with page.expect_download() as download:
        result.get_by_role("button", name="JSON").click()
    document = json.loads(download.value.path().read_text())
    assert document["state"] == "stopped"
    assert document["points"][0]["requests"]["ok"] > 2


def test_a_run_outlives_the_dashboard_that_started_it(own_dashboard, page, console_errors):
    start_run(page, own_dashboard)
    wait_for_answers(page, 2)
    expect(page.locator(DOTS).first).to_be_attached()  # and so all that the page needs is loaded
    (run,) = (own_dashboard.home / "jobs").iterdir()

    for how in (signal.SIGTERM, signal.SIGKILL):
        assert console_errors == []
        own_dashboard.end(how)
        seen = answered(page)  # what the page showed last
        own_dashboard.start()
        wait_for_answers(page, seen)  # in the tab that stayed open
        console_errors.clear()  # it found no dashboard for a while

    page.get_by_role("button", name="Stop").click()
    expect(page.get_by_test_id("stProgress")).to_have_count(0)
    result = page.get_by_test_id("stMain")
    expect(result.get_by_text("stopped", exact=True)).to_be_visible()
    with page.expect_download() as download:
        result.get_by_role("button", name="JSON").click()
    document = json.loads(download.value.path().read_text())
    assert document["id"] == run.name
    assert document["points"][0]["requests"]["ok"] > seen
