"""Tabs of which the open one stays open when the page's language changes.

Streamlit knows a tab by its title alone: in another language it would open the first one.
"""

from collections.abc import Sequence

import streamlit as st
from streamlit.elements.lib.mutable_tab_container import TabContainer


def show_tabs(titles: Sequence[str], *, key: str, opened: int = 0) -> Sequence[TabContainer]:
    """Tabs that rerun the page when one is opened; the tab at the place `opened` is open at first."""
    place_key = f"{key}_place"
    if st.session_state.get(key) not in titles:
        place: int = st.session_state.get(place_key, opened)
        st.session_state[key] = titles[min(place, len(titles) - 1)]
    tabs = st.tabs(titles, on_change="rerun", key=key)
    st.session_state[place_key] = next((place for place, tab in enumerate(tabs) if tab.open), opened)
    return tabs
