"""Presenting: a page for a screen that a room looks at, without sidebar and navigation.

It stands in the address (`?present=1`), so that it survives a reload and can be opened on the screen itself.
`?kiosk=1` presents too, and the page changes between views by itself.
"""

from collections.abc import Callable

import streamlit as st

from core.errors import LMDynoError
from core.i18n import _
from core.ui.shared.components import show_error

PRESENT = "present"
KIOSK = "kiosk"


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
