"""A board for a room: a tile for each lane with up to three figures in large type.

A component of its own, since Streamlit's elements have one size of type for the whole dashboard. What it
shows is text set by its script, never HTML, so names and answers of others stay text. It is updated in place.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import streamlit as st

_HTML = '<div class="board"></div>'
_CSS = """
.board {
  display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 23rem), 1fr)); gap: 1rem;
  color: var(--st-text-color); font-family: var(--st-font);
}
.tile {
  container-type: inline-size; border: 1px solid var(--st-border-color); border-radius: 0.5rem;
  border-top: 0.6rem solid; padding: 0.75rem 1.25rem;
}
h2 { margin: 0; font-size: clamp(1.6rem, 9cqi, 3rem); line-height: 1.2; overflow-wrap: anywhere; }
dl { margin: 0; display: grid; grid-template-columns: 1fr; }
dt { font-size: clamp(1rem, 5cqi, 1.6rem); line-height: 1.1; }
dd {
  margin: 0 0 0.35rem; font-size: clamp(2.2rem, 14cqi, 5rem); line-height: 1.1; font-weight: 700;
  white-space: nowrap; font-variant-numeric: tabular-nums;
}
.note {
  margin: 0.25rem 0 0; font-size: clamp(1rem, 4.5cqi, 1.5rem); line-height: 1.25; overflow-wrap: anywhere;
}
.track { height: 1rem; border-radius: 0.5rem; background: var(--st-secondary-background-color); }
.bar { height: 100%; border-radius: 0.5rem; }
"""
_JS = """
export default function ({ data, parentElement }) {
  const make = (name, parent, text, kind) => {
    const element = document.createElement(name);
    if (kind) element.className = kind;
    if (text) element.textContent = text;
    parent.append(element);
    return element;
  };
  const board = parentElement.querySelector(".board");
  const tiles = document.createDocumentFragment();
  for (const tile of data.tiles) {
    const box = make("section", tiles, "", "tile");
    box.setAttribute("aria-label", tile.name);
    box.style.borderTopColor = tile.color;
    make("h2", box, tile.name);
    if (tile.progress !== null) {
      const track = make("div", box, "", "track");
      track.setAttribute("role", "progressbar");
      track.setAttribute("aria-label", tile.name);
      track.setAttribute("aria-valuemin", "0");
      track.setAttribute("aria-valuemax", "100");
      track.setAttribute("aria-valuenow", String(Math.round(100 * tile.progress)));
      const bar = make("div", track, "", "bar");
      bar.style.width = `${100 * tile.progress}%`;
      bar.style.background = tile.color;
    }
    const figures = make("dl", box);
    for (const [label, value] of tile.figures) {
      make("dt", figures, label);
      make("dd", figures, value);
    }
    if (tile.note) make("p", box, tile.note, "note");
  }
  board.replaceChildren(tiles);
}
"""
_board = st.components.v2.component("lmdyno_board", html=_HTML, css=_CSS, js=_JS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tile:
    """One lane on the board."""

    name: str
    color: str
    figures: Sequence[tuple[str, str]]
    """Label and value of each, three at most."""
    progress: float | None = None
    """0 to 1; None draws no bar."""
    note: str = ""
    """A sentence below the figures."""


def show_board(tiles: Sequence[Tile], *, key: str) -> None:
    """Draw the tiles side by side, as many as fit."""
    _board(
        key=key,
        data={
            "tiles": [
                {
                    "name": tile.name,
                    "color": tile.color,
                    "figures": [list(figure) for figure in tile.figures],
                    "progress": tile.progress,
                    "note": tile.note,
                }
                for tile in tiles
            ]
        },
    )
