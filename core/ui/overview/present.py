"""What the overview presents to a room: one view, or in a kiosk several by turns.

`?present=1&view=turn` presents the newest turn. `?kiosk=1&views=scorecard,session&seconds=15` changes
between two views.
"""

import time
from collections.abc import Callable, Mapping

import streamlit as st

from core.i18n import _
from core.scorecard.card import verdict
from core.ui.benchmark.live import show_benchmark_board, speed_tile
from core.ui.chat.page import show_newest_turn_board
from core.ui.overview import scorecard
from core.ui.overview.scorecard import lanes_by_model
from core.ui.sessions.invite import show_newest_session
from core.ui.shared import resources
from core.ui.shared.components import escape
from core.ui.shared.presenting import is_kiosk, present, show_board

_REFRESH_S = 1.0
_VIEW, _VIEWS, _SECONDS = "view", "views", "seconds"
_LEAST_S, _USUAL_S = 5, 20
_USUAL_VIEWS = "scorecard,turn,benchmark"


def show() -> None:
    """Draw the view whose turn it is; refreshes itself."""
    present(lambda: _VIEW_OF[_current()](), refresh_s=_REFRESH_S)


def _current() -> str:
    """The view that the address names, or in a kiosk the one whose turn it is by the clock."""
    if not is_kiosk():
        return _known([st.query_params.get(_VIEW, "")])[0]
    views = _known(st.query_params.get(_VIEWS, _USUAL_VIEWS).split(","))
    return views[int(time.time() / _seconds()) % len(views)]


def _known(names: list[str]) -> list[str]:
    return [name for name in names if name in _VIEW_OF] or [next(iter(_VIEW_OF))]


def _seconds() -> int:
    given = st.query_params.get(_SECONDS, "")
    return max(_LEAST_S, int(given)) if given.isdecimal() else _USUAL_S


def _show_scorecard() -> None:
    groups = lanes_by_model(resources.lanes().lanes)
    if not groups:
        st.info(_("There are no lanes."), icon=":material/dns:")
        return
    model, lanes = next(iter(groups.items()))
    card = scorecard.read(lanes, lanes[0].name)
    headline = next((_(sentence) for sentence in verdict(card)), model or _("Scorecard"))
    st.markdown(f"# {escape(headline)}", anchors=False)
    tiles = [
        speed_tile(row.name, row.speed, note="" if row.speed else scorecard.gap_text(row))
        for row in card.rows
    ]
    show_board(tiles, key="present_scorecard")


_VIEW_OF: Mapping[str, Callable[[], None]] = {
    "scorecard": _show_scorecard,
    "turn": show_newest_turn_board,
    "benchmark": show_benchmark_board,
    "session": show_newest_session,
}
"""The views by their names in the address; the first one is the usual one."""
