"""Every page in both themes: contrast, names, headings, the prompt's key, and a phone's width."""

import io

import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from e2e_dashboard import settle
from PIL import Image
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
    ".token",  # of code: Streamlit's own colours, which no option of the theme sets
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


FOCUSED = """() => {
    const element = document.activeElement;
    const seen = window.tabStops ??= new Set();
    if (!element || element === document.body || seen.has(element)) return null;
    seen.add(element);
    if (element.matches(UNMARKED)) return {name: '', isFaint: false, box: null};
    element.scrollIntoView({block: 'nearest'});
    const shown = element.closest('label') ?? element;
    const box = shown.getBoundingClientRect();
    return {
        name: (element.getAttribute('aria-label') || element.innerText || element.tagName).slice(0, 40),
        isFaint: element.matches(FAINT),
        box: [box.x, box.y, box.width, box.height],
    };
}"""
FAINT = (
    "[data-testid=stTopNavLink], [data-testid=stPageLink-NavLink], [data-testid=stMainMenuButton], "
    "[data-testid=stMain], [data-testid=stCheckbox] input, [data-testid=stSidebarCollapseButton] *"
)
"""What Streamlit marks with a tint or a grey ring, which no option of the theme sets."""
UNMARKED = (
    "[data-testid=stChatInputTextArea], [data-testid=stBaseButton-elementToolbar], "
    "[data-testid=stPlotlyChart] *"
)
"""What Streamlit marks with the caret only, or not at all."""
ON_EVERY_PAGE = "[data-testid=stTopNavLink], [data-testid=stMainMenuButton], [aria-label^='Language'] input"
RING = {"light": 3.0, "dark": 1.5}
"""Least contrast between an element's pixels with and without focus. Streamlit's ring has half the alpha of
the primary colour, which in the dark theme must also be dark enough for white labels."""


FOCUS_IN_DARK = "quality"
WITH_NAVIGATION = {"light": "", "dark": FOCUS_IN_DARK}
"""The page on which the navigation, the menu and the language are looked at too, since all have them."""


def unseen_focus(page: Page, theme: str, *, everywhere: bool) -> list[str]:
    """What Tab reaches without being marked enough, one line for each element."""
    stops, unseen = 0, []
    left_out = UNMARKED if everywhere else f"{UNMARKED}, {ON_EVERY_PAGE}"
    look = FOCUSED.replace("UNMARKED", repr(left_out)).replace("FAINT", repr(FAINT))
    page.evaluate("document.activeElement.blur(); window.tabStops = new Set()")
    while True:
        page.keyboard.press("Tab")
        focused = page.evaluate(look)
        if focused is None:
            break
        stops += 1
        if focused["box"] is None:
            continue
        contrast = focus_contrast(page, focused["box"])
        if contrast < (1.05 if focused["isFaint"] else RING[theme]):
            unseen.append(f"{focused['name']}: {contrast:.2f}")
    assert stops > len(PAGES)
    return unseen


def focus_contrast(page: Page, box: list[float]) -> float:
    """The most that a pixel in or around the box contrasts with itself when its element loses the focus."""
    margin, (x, y, width, height), size = 10, box, page.viewport_size
    left, top = max(0, x - margin), max(0, y - margin)
    clip = {
        "x": left,
        "y": top,
        "width": min(size["width"], x + width + margin) - left,
        "height": min(size["height"], y + height + margin) - top,
    }
    with_focus = luminance(page.screenshot(clip=clip, animations="disabled"))
    page.evaluate("window.lastFocused = document.activeElement; window.lastFocused.blur()")
    without = luminance(page.screenshot(clip=clip, animations="disabled"))
    page.evaluate("window.lastFocused.focus({preventScroll: true})")
    lighter, darker = np.maximum(with_focus, without), np.minimum(with_focus, without)
    return float(((lighter + 0.05) / (darker + 0.05)).max())


def luminance(png: bytes) -> np.ndarray:
    """Relative luminance of each pixel, as WCAG defines it."""
    values = np.asarray(Image.open(io.BytesIO(png)).convert("RGB")) / 255
    linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    return linear @ np.array([0.2126, 0.7152, 0.0722])


@pytest.mark.parametrize("path", PAGES)
def test_each_page_is_readable_in_both_themes_shows_the_focus_and_fits_a_phone(page, dashboard, path):
    page.emulate_media(color_scheme="light", reduced_motion="reduce")
    opened(page, dashboard, path)
    expect(page).to_have_title(f"{PAGES[path]} · LMDyno")
    expect(page.get_by_role("heading", level=1)).to_have_count(1)
    for theme in ("light", "dark"):
        page.emulate_media(color_scheme=theme, reduced_motion="reduce")
        expect(page.get_by_test_id("stApp")).to_have_css("color-scheme", theme)
        assert violations(page) == [], theme
        if theme == "light" or path == FOCUS_IN_DARK:
            assert unseen_focus(page, theme, everywhere=path == WITH_NAVIGATION[theme]) == [], theme
    page.set_viewport_size(PHONE)
    page.wait_for_function("document.scrollingElement.scrollWidth <= window.innerWidth")


@pytest.mark.parametrize("width", [PHONE["width"], 1400])
def test_the_prompt_is_in_view_and_reached_by_a_key(page, dashboard, width):
    page.set_viewport_size({"width": width, "height": 860})
    opened(page, dashboard, "chat")
    prompt = page.get_by_test_id("stChatInputTextArea")
    expect(prompt).to_be_in_viewport()
    page.keyboard.press("/")
    expect(prompt).to_be_focused()
    expect(prompt).to_have_value("")
