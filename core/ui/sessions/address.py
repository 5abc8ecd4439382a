"""The session that a host has open, kept in the address so that the page can be reloaded and shared."""

import streamlit as st

from core.domain.sessions import Session
from core.ui.shared import resources
from core.ui.shared.presenting import PRESENT

_ID = "id"
_NEW = "session_new"


def session_in_view() -> Session | None:
    """The session that the address names; None for none. Raises StoreError (`no-such-session`)."""
    session_id = st.query_params.get(_ID)
    return resources.sessions().session(session_id) if session_id else None


def is_new() -> bool:
    """Whether a new session is being made."""
    return bool(st.session_state.get(_NEW))


def go_to_session(session_id: str) -> None:
    st.session_state[_NEW] = False
    st.query_params[_ID] = session_id
    st.query_params.pop(PRESENT, None)


def go_to_list() -> None:
    st.session_state[_NEW] = False
    for name in (_ID, PRESENT):
        st.query_params.pop(name, None)


def go_to_new() -> None:
    go_to_list()
    st.session_state[_NEW] = True
