"""Presenting to a room: a page without sidebar and navigation, and a board that shows lanes in large type.

It stands in the address (`?present=1`), so that it survives a reload and can be opened on the screen itself.
`?kiosk=1` presents too, and the page changes between views by itself.

The board is a component of its own, since Streamlit's elements have one size of type for the whole dashboard.
What it shows is text set by its script, never HTML, so names and answers of others stay text. It is updated
in place.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import streamlit as st

from core.errors import LMDynoError
from core.i18n import _
from core.ui.shared.components import show_error

PRESENT = "present"
KIOSK = "kiosk"

_HTML = '<div class="board"></div>'
_CSS = """
.board {
  display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, var(--least)), 1fr)); gap: 1rem;
  color: var(--st-text-color); font-family: var(--st-font);
  --value: min(17cqi, 8.5vh);
}
.board.course { --value: min(17cqi, 7.5vh); }
.board.rows { --value: min(11cqi, 6vh); }
.tile {
  container-type: inline-size; border: 1px solid var(--st-border-color); border-radius: 0.5rem;
  border-top: 0.6rem solid; padding: 0.5rem 1.25rem;
}
h2 { margin: 0; font-size: clamp(1.5rem, min(9cqi, 6vh), 3rem); line-height: 1.2; overflow-wrap: anywhere; }
dl { margin: 0; display: grid; grid-template-columns: 1fr; }
.rows dl { grid-template-columns: auto 1fr; align-items: baseline; column-gap: 0.75rem; }
.rows dd { text-align: right; }
dt { font-size: clamp(1rem, min(5cqi, 3.5vh), 1.6rem); line-height: 1.1; }
dd {
  margin: 0; font-size: clamp(2rem, var(--value), 6rem); line-height: 1.12; font-weight: 700;
  white-space: nowrap; font-variant-numeric: tabular-nums;
}
.note {
  margin: 0.25rem 0 0; font-size: clamp(1rem, min(4.5cqi, 3.2vh), 1.5rem); line-height: 1.25;
  overflow-wrap: anywhere;
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
  board.className = `board ${data.kind}`;
  board.style.setProperty("--least", `${data.least_rem}rem`);
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


_LEAST_REM = {1: 24, 2: 24, 3: 18, 4: 26}
"""Width of a tile by the number of tiles, so that a screen of 1280 × 720 shows all of them."""
_LEAST_REM_OF_MANY = 20
_STACKED_TILES = 3
"""With more of them label and figure stand in one line."""


def show_board(tiles: Sequence[Tile], *, key: str) -> None:
    """Draw a tile for each lane with up to three figures, side by side, as many as fit."""
    kinds = ["rows"] if len(tiles) > _STACKED_TILES else []
    kinds += ["course"] if any(tile.progress is not None for tile in tiles) else []
    _board(
        key=key,
        data={
            "kind": " ".join(kinds),
            "least_rem": _LEAST_REM.get(len(tiles), _LEAST_REM_OF_MANY),
            "tiles": [
                {
                    "name": tile.name,
                    "color": tile.color,
                    "figures": [list(figure) for figure in tile.figures],
                    "progress": tile.progress,
                    "note": tile.note,
                }
                for tile in tiles
            ],
        },
    )


def presents() -> bool:
    """Whether the page is presented."""
    return st.query_params.get(PRESENT) == "1" or is_kiosk()


def is_kiosk() -> bool:
    return st.query_params.get(KIOSK) == "1"


def set_presenting(presenting: bool) -> None:
    st.query_params.pop(KIOSK, None)
    if presenting:
        st.query_params[PRESENT] = "1"
    else:
        st.query_params.pop(PRESENT, None)


def show_present_button() -> None:
    """The way into the presentation of this page."""
    st.button(
        _("Present"),
        icon=":material/present_to_all:",
        type="tertiary",
        key="present_start",
        shortcut="Alt+P",
        help=_("Shows this page in large type for a room, without navigation. It refreshes by itself."),
        on_click=set_presenting,
        args=(True,),
    )


def present(draw: Callable[[], None], *, refresh_s: float, escape_ends: bool = True) -> None:
    """Present what `draw` draws, again and again; an error is told and the next time is tried."""

    def draw_or_tell() -> None:
        try:
            draw()
        except LMDynoError as error:
            show_error(error)

    st.fragment(draw_or_tell, run_every=refresh_s)()
    show_exit_button(escape_ends=escape_ends)


def show_exit_button(*, escape_ends: bool = True) -> None:
    """The way back to the page."""
    with st.container(horizontal_alignment="right"):
        st.button(
            _("Exit presentation"),
            icon=":material/close_fullscreen:",
            type="tertiary",
            key="present_end",
            shortcut="Esc" if escape_ends else None,
            on_click=set_presenting,
            args=(False,),
        )
