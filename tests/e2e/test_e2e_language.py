"""The language of the dashboard in a real browser: for each tab, switched, and remembered."""

import pytest
from e2e_dashboard import Dashboard
from playwright.sync_api import Browser, Page, expect


@pytest.fixture(autouse=True)
def patience() -> None:
    """A loaded machine needs it, a quick one does not."""
    expect.set_options(timeout=60_000)


def chosen(page: Page) -> str:
    """The language that the switch shows as chosen."""
    return (
        page.get_by_role("radiogroup", name="Language / 语言").get_by_role("radio", checked=True).inner_text()
    )


def heading(page: Page, text: str) -> None:
    expect(page.get_by_role("heading", name=text, level=1)).to_be_visible()


def test_tabs_have_languages_of_their_own_and_the_choice_is_remembered(
    dashboard: Dashboard, browser: Browser
) -> None:
    context = browser.new_context(locale="en-GB")
    english, chinese = context.new_page(), context.new_page()
    english.goto(f"{dashboard.url}/engines")
    heading(english, "Engines")
    chinese.goto(f"{dashboard.url}/engines?lang=zh")
    heading(chinese, "引擎")
    expect(chinese.locator("html")).to_have_attribute("lang", "zh-CN")

    english.get_by_role("tab", name="Endpoints").click()
    expect(english.get_by_label("Base URL")).to_be_visible()
    heading(english, "Engines")

    # The switch changes this tab alone, and leaves open what is open.
    chinese.get_by_role("radio", name="English").click()
    heading(chinese, "Engines")
    english.get_by_role("radio", name="简体中文").click()
    heading(english, "引擎")
    expect(english.get_by_role("tab", name="服务端点")).to_have_attribute("aria-selected", "true")
    heading(chinese, "Engines")

    # A new tab of this browser has what was chosen last; another browser has its own.
    remembered = context.new_page()
    remembered.goto(f"{dashboard.url}/engines")
    heading(remembered, "引擎")
    assert chosen(remembered) == "简体中文"
    other = browser.new_context(locale="en-GB")
    elsewhere = other.new_page()
    elsewhere.goto(f"{dashboard.url}/engines")
    heading(elsewhere, "Engines")
    other.close()
    context.close()
