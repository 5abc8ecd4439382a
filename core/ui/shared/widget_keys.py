"""Keys of widgets whose values the page changes itself, such as the fields that a preset fills.

Every message of a browser carries the values of all its widgets, also when only a clock sends it. One that
is under way while the page changes a value brings the old value back, as if somebody had just entered it.
So the page renews the keys of what it changes: the old value then belongs to a widget that is no longer
there.
"""

import streamlit as st

_TURN = "key_turn_"


def key_of(name: str, *, group: str) -> str:
    """The key that a widget of the group has now."""
    turn = st.session_state.get(_TURN + group, 0)
    return f"{name}_{turn}" if turn else name


def renew(group: str) -> None:
    """Give the group's widgets new keys; their values have to be set under these."""
    st.session_state[_TURN + group] = st.session_state.get(_TURN + group, 0) + 1
