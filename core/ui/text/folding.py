"""What of a text a browser can draw in a moment, and how the rest is shown: folded, as plain text.

A table of 24,000 cells or a formula of 100 kB holds a browser up for a minute, at every reload again. Costs
are rough milliseconds on a laptop; a block or a text above its limit is folded.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import streamlit as st
from markdown_it.token import Token

from core import units
from core.i18n import _
from core.ui.text.markdown import FORMULAS, References, parse
from core.ui.text.markdown_writer import breakable, write

BLOCK_LIMIT = 200.0
TEXT_LIMIT = 800.0
_COSTS = {"td": 0.4, "th": 0.4}
_FORMULA_COST = 3.0
_NODE_COST = 0.1
_BLOCK_COST = 1.0
"""An element of Streamlit."""
_CHAR_COST = 0.003
_MOST_BLOCK_CHARS = int(BLOCK_LIMIT / _CHAR_COST)

_PREVIEW_CHARS = 300
_PREVIEW_LINES = 5
PAGE_CHARS = 20_000


@dataclass(frozen=True, slots=True)
class Drawn:
    """A block as it is drawn."""

    markdown: str | None
    """None: it is folded."""
    cost: float


def draw(block: str, references: References) -> Drawn:
    """The block as Markdown for Streamlit, or folded if it alone costs too much."""
    if len(block) > _MOST_BLOCK_CHARS:
        return Drawn(None, 0.0)
    tokens = parse(block, references)
    block_cost = _BLOCK_COST + cost(tokens)
    if block_cost > BLOCK_LIMIT:
        return Drawn(None, 0.0)
    return Drawn(write(tokens), block_cost)


def cost(tokens: Sequence[Token]) -> float:
    """What it takes a browser to draw them."""
    total = 0.0
    for token in tokens:
        if token.children:
            total += cost(token.children)
        elif token.type in FORMULAS:
            total += _FORMULA_COST
        elif token.nesting >= 0:
            total += _COSTS.get(token.tag, _NODE_COST) + len(token.content) * _CHAR_COST
    return total


def show_folded(text: str, *, key: str | None) -> None:
    """The beginning of a text too large to draw, and the way to all of it; no button without a key."""
    lines = text[:_PREVIEW_CHARS].splitlines()[:_PREVIEW_LINES]
    st.code(breakable("\n".join(lines)) + "\n…", language=None, wrap_lines=True)
    if key is None:
        st.caption(_("{count} characters, shown as plain text", count=units.count(len(text))))
    elif st.button(
        _("Show all {count} characters as plain text", count=units.count(len(text))),
        key=key,
        icon=":material/unfold_more:",
        type="tertiary",
    ):
        show_plain(text)


def show_plain(text: str) -> None:
    """A dialog with the whole text, page by page, and its download."""
    st.dialog(_("Plain text"), width="large", icon=":material/notes:")(_show_pages)(text)


def _show_pages(text: str) -> None:
    pages = -(-len(text) // PAGE_CHARS)
    page = st.pagination(pages, key="plain_text_page") if pages > 1 else 1
    part = text[(page - 1) * PAGE_CHARS : page * PAGE_CHARS]
    st.code(breakable(part), language=None, wrap_lines=True, height=520)
    st.download_button(
        _("Download"),
        text.encode("utf-8", "replace"),
        file_name="text.txt",
        mime="text/plain",
        icon=":material/download:",
        on_click="ignore",
    )
