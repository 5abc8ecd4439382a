"""An answer's text on the page: while it grows, when it is finished, and folded where it is too large.

`st.write_stream` sends the whole text again with every chunk. Here each finished Markdown block is sent once
and only the last, open one again, at a pace that falls as it grows.

A table of 24,000 cells or a formula of 100 kB holds a browser up for a minute, at every reload again. Costs
are rough milliseconds on a laptop; a block or a text above its limit is folded and shown as plain text.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from time import monotonic

import streamlit as st
from markdown_it.token import Token
from streamlit.delta_generator import DeltaGenerator

from core import units
from core.i18n import _
from core.ui.shared.markdown import (
    FORMULAS,
    BlockSplitter,
    References,
    breakable,
    parse,
    split_blocks,
    takes_long,
    write,
)

MIN_INTERVAL_S = 0.05
"""A reader sees no more than 20 updates a second, and each costs some 150 bytes besides its text."""
OPENING_INTERVAL_S = 0.4
"""The pace while a page is still being loaded (`OPENING_S`): a browser builds its buttons and fields when no
text comes for a moment, and with 20 updates a second on a busy machine that moment never came."""
OPENING_S = 4.0
OPEN_BYTES_PER_S = 16_000
"""The limit for sending one lane's open block again; a block of 8 kB is redrawn twice a second."""

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


class LiveText:
    """Writes into the container that is current when it is made. For one thread."""

    def __init__(self, *, opened_s: float = 0.0) -> None:
        """`opened_s` is when the browser opened the page, by `time.monotonic()`."""
        self._opened_s = opened_s
        self._container = st.container(gap="small")
        self._splitter = BlockSplitter()
        self._slot: DeltaGenerator | None = None
        self._shown: str | None = None
        """The Markdown in the slot; "" while what is there is folded."""
        self._cost = 0.0
        self._full = False
        """New text is too much to be drawn: it waits, folded, for the end."""
        self._due_s = 0.0
        self._changed = False

    def append(self, text: str) -> None:
        if text and not self._full:
            self._splitter.append(text)
            self._changed = True

    def draw(self, *, final: bool = False) -> None:
        """Show what is new, if it is time to."""
        now_s = monotonic()
        if not self._changed or self._full or (now_s < self._due_s and not final):
            return
        if final:
            self._splitter.append("\n")
        for block in self._splitter.take_finished():
            self._cost += self._write(block)
            if self._full:
                return
            self._slot = None
        open_block = self._splitter.open_text.rstrip()
        if open_block:
            self._write(open_block)
        self._changed = False
        self._due_s = self._next_s(now_s, len(open_block.encode()))

    def _next_s(self, now_s: float, open_bytes: int) -> float:
        """The next time to draw: on a beat that all lanes share, so that the browser rests between."""
        opening = now_s < self._opened_s + OPENING_S
        interval_s = max(OPENING_INTERVAL_S if opening else MIN_INTERVAL_S, open_bytes / OPEN_BYTES_PER_S)
        return (now_s // interval_s + 1) * interval_s

    def _write(self, block: str) -> float:
        """Write the block into its slot; returns what that costs the browser."""
        if self._slot is None:
            self._slot = self._container.empty()
            self._shown = None
        drawn = draw(block, self._splitter.references)
        self._full = self._cost + drawn.cost > TEXT_LIMIT
        if drawn.markdown is None or self._full:
            if self._shown != "":
                with self._slot.container():
                    show_folded(block, key=None)
            self._shown = ""
        elif drawn.markdown != self._shown:
            self._slot.markdown(drawn.markdown, anchors=False)
            self._shown = drawn.markdown
        return drawn.cost


def show_text(text: str, *, key: str) -> None:
    """A finished text, in the same blocks as while it grew, so that the browser keeps what it shows.

    `key` names the text among all on the page.
    """
    blocks, references = split_blocks(text)
    total = 0.0
    with st.container(gap="small"):
        for place, block in enumerate(blocks):
            drawn = draw(block, references)
            total += drawn.cost
            if total > TEXT_LIMIT:
                rest = "\n\n".join(blocks[place:])
                with st.container():
                    show_folded(rest, key=f"{key}_rest")
                return
            if drawn.markdown is None:
                with st.container():
                    show_folded(block, key=f"{key}_{place}")
            else:
                st.markdown(drawn.markdown, anchors=False)


@dataclass(frozen=True, slots=True)
class Drawn:
    """A block as it is drawn."""

    markdown: str | None
    """None: it is folded."""
    cost: float


def draw(block: str, references: References) -> Drawn:
    """The block as Markdown for Streamlit, or folded if it alone costs too much."""
    if len(block) > _MOST_BLOCK_CHARS or takes_long(block):
        return Drawn(None, 0.0)
    tokens = parse(block, references)
    block_cost = _BLOCK_COST + cost(tokens)
    if block_cost > BLOCK_LIMIT:
        return Drawn(None, 0.0)
    return Drawn(write(tokens), block_cost)


def cost(tokens: Sequence[Token]) -> float:
    """The cost of drawing the tokens in a browser."""
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
