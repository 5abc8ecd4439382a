"""The texts that a page shows, and what of them is English."""

import re
from collections.abc import Iterator

from e2e_dashboard import settle
from playwright.sync_api import Locator, Page

VISIBLE_TEXTS = """
() => {
  const foreign = 'code, pre, script, style, noscript, textarea, [data-testid="stIconMaterial"], ' +
    '[data-testid="stChatMessageContent"], [data-testid="stJson"], [data-testid="stText"], ' +
    '.katex, [class*="st-key-answer_"], [aria-label$=" icon"]';
  const texts = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const text = walker.currentNode.textContent.trim();
    const holder = walker.currentNode.parentElement;
    const isIcon = holder && getComputedStyle(holder).fontFamily.includes('Material Symbols');
    if (text && holder && !isIcon && !holder.closest(foreign) && holder.checkVisibility()) texts.push(text);
  }
  const named = 'input, textarea, img, [role="img"], [role="group"], [role="radiogroup"]';
  for (const element of document.querySelectorAll('[placeholder], [alt], ' + named)) {
    if (element.closest('[data-testid="stIconMaterial"], [aria-label$=" icon"]')) continue;
    if (!element.checkVisibility()) continue;
    for (const name of ['aria-label', 'placeholder', 'alt']) {
      const text = element.getAttribute(name);
      if (text && text.trim()) texts.push(text.trim());
    }
  }
  return texts;
}
"""
"""Text nodes, and the names of fields and images; neither code nor what people and models wrote."""

OPEN_EXPANDERS = """
() => {
  const closed = [...document.querySelectorAll('[data-testid="stMain"] details:not([open]) > summary')];
  closed.forEach((summary) => summary.click());
  return closed.length;
}
"""

_PIECE = re.compile(r"[A-Za-z0-9_./:\\'’+%=<>@#&$~^*-]*[A-Za-z][A-Za-z0-9_./:\\'’+%=<>@#&$~^*-]*")
_WORD = re.compile(r"[A-Z]?[a-z][a-z'’]+")


def english_words(text: str) -> set[str]:
    """The words in it that read as English: neither abbreviations nor names with digits or inner capitals."""
    pieces = (piece.strip(".:'*") for piece in _PIECE.findall(text))
    return {piece for piece in pieces if len(piece) > 2 and _WORD.fullmatch(piece)}


def everything_opened(page: Page) -> Iterator[None]:
    """Yields whenever more of the page is in view: each tab, those within it, its expanders, each popover."""
    tablists = page.get_by_test_id("stMain").get_by_role("tablist")
    for _tab in _each_tab(tablists.nth(0)):
        _open_expanders(page)
        yield
        for number in range(1, tablists.count()):
            for place, _inner in enumerate(_each_tab(tablists.nth(number))):
                if place:  # the first one is open already
                    _open_expanders(page)
                    yield
        popovers = page.get_by_test_id("stMain").get_by_test_id("stPopoverButton")
        for number in range(popovers.count()):
            if _open(page, popovers.nth(number)):
                yield
                page.keyboard.press("Escape")


def _each_tab(tablist: Locator) -> Iterator[None]:
    """Once for each tab, which is open then; once for a page without tabs."""
    tabs = tablist.get_by_role("tab")
    for place in range(max(1, tabs.count())):
        if place:
            tabs.nth(place).click()
            settle(tablist.page)
        yield


def _open_expanders(page: Page) -> None:
    for _round in range(2):  # the second one for those within others
        opened: int = page.evaluate(OPEN_EXPANDERS)
        if not opened:
            return
        settle(page)


def _open(page: Page, popover: Locator) -> bool:
    if not popover.is_visible() or not popover.is_enabled():
        return False
    popover.click()
    page.get_by_test_id("stPopoverBody").first.wait_for()
    settle(page)
    return True
