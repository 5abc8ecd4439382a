"""The engines page in a browser: a server becomes a lane there, and answers in the chat."""

import re
from secrets import token_hex

import pytest
from playwright.sync_api import expect


@pytest.fixture
def engines(page, dashboard):
    page.goto(f"{dashboard.url}/engines")
    expect(page.get_by_role("tab", name="Engines", exact=False).first).to_be_visible()
    return page


def test_recipes_of_a_lane_are_ready_to_copy(engines, server):
    engines.get_by_role("tab", name="Reproduce this lane").click()
    recipes = engines.get_by_test_id("stCode")
    expect(recipes.filter(has_text="curl --silent")).to_contain_text(f"{server.url}/chat/completions")
    expect(recipes.filter(has_text="from openai import OpenAI")).to_be_visible()


def test_a_server_becomes_a_lane_and_answers_in_the_chat(engines, chat, server):
    lab = f"lab-{token_hex(2)}"
    add_endpoint(engines, server.url, lab)
    sidebar = engines.get_by_test_id("stSidebar")
    expect(sidebar.get_by_text(lab, exact=True)).to_be_visible()
    chat.open(pick=(lab,), together=False)
    chat.ask()
    expect(chat.answer(lab)).to_contain_text("Hello from the script.")
    expect(chat.answers).to_have_count(1)
    engines.get_by_role("navigation").get_by_role("link", name="Engines").click()
    engines.get_by_role("tab", name="Endpoints").click()
    engines.locator(f".st-key-forget_{lab}").get_by_role("button").click()
    expect(sidebar.get_by_text(lab, exact=True)).to_have_count(0)


def add_endpoint(page, url, name):
    page.get_by_role("tab", name="Endpoints").click()
    page.get_by_label("Base URL").fill(url)
    page.get_by_role("button", name="Test the connection").click()
    expect(page.get_by_text(re.compile(r"Connected \(.*\)\. \d+ models? found"))).to_be_visible()
    page.get_by_label("Lane name").fill(name)
    page.get_by_role("button", name="Add lane").click()
    expect(page.get_by_text("Connected (")).to_have_count(0)
