"""Every way into the dashboard leads through frame and login gate; every way out ends its processes."""

import signal
import sqlite3
from contextlib import contextmanager

import pytest
from e2e_dashboard import Chat, settle, started_dashboard
from playwright.sync_api import expect

AUTH = """
[auth]
redirect_uri = "http://localhost:8501/oauth2callback"
cookie_secret = "a-secret-for-the-tests-only"
client_id = "lmdyno"
client_secret = "not-a-secret"
server_metadata_url = "http://127.0.0.1:9/.well-known/openid-configuration"
"""
PATHS = ("memory", "", "chat", "vision", "engines", "history", "nowhere")
"""The root is the overview, and the last one no page at all."""


@pytest.fixture
def fresh(tmp_path, page):
    """Starts a dashboard of its own; the tab leaves it before it ends."""

    @contextmanager
    def start(lanes: str):
        with started_dashboard(tmp_path, lanes) as dashboard:
            yield dashboard
            page.goto("about:blank")

    return start


def test_a_deep_link_to_a_fresh_server_shows_the_frame(fresh, lanes, page):
    """Every page as the first one of a server: tests/pages/test_page_shell.py."""
    with fresh(lanes) as dashboard:
        for path in filter(None, PATHS[:-1]):
            page.goto(f"{dashboard.url}/{path}")
            expect(page.get_by_role("navigation").get_by_role("link", name="Chat")).to_be_visible()
            expect(page.get_by_test_id("stSidebar").get_by_text("reachable").first).to_be_visible()
            expect(page).to_have_title(f"{path.capitalize()} · LMDyno")


def test_nobody_sees_a_page_before_logging_in(tmp_path, fresh, lanes, page, console_errors):
    (tmp_path / "secrets.toml").write_text(AUTH)
    with fresh(lanes) as dashboard:
        for path in PATHS:
            page.goto(f"{dashboard.url}/{path}")
            expect(page.get_by_role("button", name="Log in")).to_be_visible()
            settle(page)
            expect(page.get_by_test_id("stChatInputTextArea")).to_have_count(0)
            expect(page.get_by_text("quick")).to_have_count(0)
    console_errors.clear()  # Streamlit says that /nowhere is no page, and runs the router instead


def test_a_mistake_in_the_lanes_file_is_one_clear_page(fresh, page):
    with fresh('[lanes.x]\nengine = "warp"\n') as dashboard:
        page.goto(dashboard.url)
        expect(page.get_by_text("Can't read the configuration")).to_be_visible()
        expect(page.get_by_test_id("stAlert")).to_contain_text("engine")
        expect(page.get_by_test_id("stException")).to_have_count(0)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_end_of_the_dashboard_ends_and_records_what_runs(tmp_path, lanes, page, number):
    with started_dashboard(tmp_path, lanes) as dashboard:
        chat = Chat(page, dashboard).open(pick=("steady",))
        chat.ask()
        expect(chat.answer("steady")).to_contain_text("word3")
        page.goto("about:blank")
        dashboard.end(number)
        with sqlite3.connect(dashboard.home / "lmdyno.db") as store:
            rows = store.execute("select phase, finish_reason, text from requests").fetchall()
    assert len(rows) == 1
    phase, reason, text = rows[0]
    assert (phase, reason) == ("done", "cancelled")
    assert "word3" in text
