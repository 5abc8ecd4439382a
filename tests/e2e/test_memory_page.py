"""The memory page in a browser, over a real process that stands in for an engine."""

import re
import signal
import subprocess
import sys

import pytest
from e2e_dashboard import settle
from playwright.sync_api import expect

from core.domain.specs import EngineKind, EngineSettings, LaneSpec, ModelSpec
from core.domain.turns import utc_now
from core.engines.registry import EngineEntry, EngineState, Registry
from core.settings import Settings
from core.telemetry.processes import identify, this_process

BUSY = "import time\nwhile True: sum(range(20000)); time.sleep(0.01)"
CHART = ".st-key-memory_live_chart .js-plotly-plot"
AT_REST = f"""() => {{
    const chart = document.querySelector("{CHART}");
    if (!chart?._fullLayout || !chart._context?.scrollZoom) return false;
    if (window.lastDrawn !== chart._fullLayout) {{
        window.lastDrawn = chart._fullLayout;
        window.lastDrawnAt = performance.now();
    }}
    return performance.now() - window.lastDrawnAt > 1500;
}}"""
"""Frozen, and drawn no more; Plotly makes a layout each time that it draws."""
RANGE = f"document.querySelector('{CHART}')._fullLayout.xaxis2.range"

CHART_END = f"document.querySelector('{CHART}')?._fullLayout?.xaxis2?.range[1]"


@pytest.fixture(scope="module")
def engine(dashboard):
    """A process that works a little, registered as the engine `probe`."""
    child = subprocess.Popen([sys.executable, "-c", BUSY])
    settings = Settings(home=dashboard.home, lanes_file=dashboard.home / "lanes.toml", database_url="")
    me = this_process()
    model = ModelSpec(name="probe", checkpoint="/nowhere")
    lane = LaneSpec(
        name="probe", kind=EngineKind.TRANSFORMERS, model=model, settings=EngineSettings(device="cpu")
    )
    with Registry(settings).changing() as engines:
        engines["probe"] = EngineEntry(
            lane=lane,
            state=EngineState.HEALTHY,
            since=utc_now(),
            owner=me,
            worker=me,
            process=identify(child.pid),
            log_file=str(settings.logs_dir / "engine-probe.log"),
        )
    yield child
    child.kill()
    child.wait()


@pytest.fixture
def memory(page, dashboard, engine):
    page.goto(dashboard.url)
    page.get_by_role("link", name="Memory").click()
    expect(page.get_by_role("tab", name="Live")).to_be_visible()
    return page


def card(page):
    return page.get_by_test_id("stTabPanel").get_by_text(re.compile("CPU:")).first


def time_range(page):
    return page.evaluate(RANGE)


def freeze(page):
    """Hold chart and cards, and wait until they are drawn so."""
    expect(page.locator(f"{CHART} .scatterlayer path").first).to_be_attached()
    page.get_by_text("Freeze", exact=True).click()
    settle(page)
    page.wait_for_function(AT_REST)


def test_the_cards_follow_the_process_without_a_rerun_of_the_page(memory, engine):
    expect(memory.get_by_text("Host memory:").first).to_contain_text(re.compile(r"\d+ MiB"))
    working, idle = re.compile(r"CPU: (?!0\.00)\d+\.\d\d cores"), "CPU: 0.00 cores"
    expect(card(memory)).to_contain_text(working)
    engine.send_signal(signal.SIGSTOP)
    try:
        expect(card(memory)).to_contain_text(idle)
    finally:
        engine.send_signal(signal.SIGCONT)
    expect(card(memory)).to_contain_text(working)


def test_a_frozen_chart_stays_and_can_be_zoomed(memory):
    freeze(memory)
    before, text = time_range(memory), card(memory).inner_text()
    plot = memory.locator(f"{CHART} .nsewdrag").nth(1).bounding_box()
    y = plot["y"] + plot["height"] / 2
    memory.mouse.move(plot["x"] + plot["width"] * 0.3, y)
    memory.mouse.down()
    memory.mouse.move(plot["x"] + plot["width"] * 0.6, y, steps=5)
    memory.mouse.up()
    memory.wait_for_function(f"before => {RANGE}[0] > before[0] && {RANGE}[1] < before[1]", arg=before)
    zoomed = time_range(memory)
    memory.wait_for_timeout(3000)  # longer than the pause between two refreshes
    assert time_range(memory) == zoomed
    assert card(memory).inner_text() == text


def test_the_samples_can_be_taken_away(memory):
    # Frozen, since a busy machine may fetch the file after the next refresh, when Streamlit has dropped it.
    freeze(memory)
    with memory.expect_download() as download:
        memory.get_by_role("button", name="CSV").click()
    rows = download.value.path().read_text().splitlines()
    assert rows[0].startswith("time,what,name")
    assert any(",engine,probe," in row for row in rows)
    memory.locator(CHART).hover()
    with memory.expect_download() as download:
        memory.locator(f"{CHART} .modebar-btn").first.click()
    assert download.value.path().read_bytes().startswith(b"\x89PNG")


def test_it_goes_on_while_a_chat_streams(memory, browser, dashboard):
    other = browser.new_context().new_page()
    other.goto(f"{dashboard.url}/chat")
    box = other.get_by_test_id("stChatInputTextArea")
    expect(box).to_be_enabled()
    box.fill("What is Ohm's law?")
    box.press("Enter")
    stop = other.get_by_test_id("stBottomBlockContainer").get_by_role("button", name="Stop")
    expect(stop).to_be_visible()
    for _ in range(2):
        expect(memory.locator(CHART).first).to_be_visible()  # for a moment there is the one before as well
        memory.wait_for_function(f"{CHART_END} !== undefined")
        before = memory.evaluate(CHART_END)
        memory.wait_for_function(f"before => {CHART_END} > before", arg=before)
    expect(stop).to_be_visible()
    stop.click()
    other.context.close()


def test_the_explorer_answers_what_awq_frees(memory):
    memory.get_by_role("tab", name="KV cache explorer").click()
    expect(memory.get_by_text("AWQ frees")).to_contain_text("more tokens")
    expect(memory.locator(".st-key-explorer_map .heatmaplayer")).to_be_attached()
    tokens = memory.get_by_test_id("stMetric").filter(has_text="Tokens that fit")
    before = tokens.inner_text()
    memory.locator(".st-key-explorer_bits").get_by_role("radio", name="4").click()
    expect(tokens).not_to_have_text(before)
