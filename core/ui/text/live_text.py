"""An answer's text on the page while it grows.

`st.write_stream` sends the whole text again with every chunk. Here each finished Markdown block is sent once
and only the last, open one again, at a pace that falls as it grows.
"""

from time import monotonic

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from core.ui.text.folding import TEXT_LIMIT, draw, show_folded
from core.ui.text.markdown import BlockSplitter, split_blocks

MIN_INTERVAL_S = 0.05
"""A reader sees no more than 20 updates a second, and each costs some 150 bytes besides its text."""
OPENING_INTERVAL_S = 0.4
"""The pace while a page is still being loaded (`OPENING_S`): a browser builds its buttons and fields when no
text comes for a moment, and with 20 updates a second on a busy machine that moment never came."""
OPENING_S = 4.0
OPEN_BYTES_PER_S = 16_000
"""What sending one lane's open block again may cost; a block of 8 kB is so redrawn twice a second."""


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
        self._drawn_blocks = 0
        self._cost = 0.0
        self._full = False
        """What comes now is too much to be drawn: it waits, folded, for the end."""
        self._due_s = 0.0
        self._changed = False

    def append(self, text: str) -> None:
        if text:
            self._splitter.append(text)
            self._changed = True

    def draw(self, *, final: bool = False) -> None:
        """Show what is new, if it is time to."""
        now_s = monotonic()
        if not self._changed or self._full or (now_s < self._due_s and not final):
            return
        if final:
            self._splitter.append("\n")
        for block in self._splitter.finished[self._drawn_blocks :]:
            self._cost += self._write(block)
            if self._full:
                return
            self._slot = None
            self._drawn_blocks += 1
        open_block = self._splitter.open_text.rstrip()
        if open_block:
            self._write(open_block)
        self._changed = False
        self._due_s = self._next_s(now_s, len(open_block.encode()))

    def _next_s(self, now_s: float, open_bytes: int) -> float:
        """When to draw again: on a beat that all lanes share, so that the browser rests between."""
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
