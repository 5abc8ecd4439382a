"""History: everything that was measured; one run, one turn, or several runs side by side."""

import streamlit as st

from core.errors import StoreError
from core.ui import history_compare, history_list, history_run, history_state, history_turn, shell
from core.ui.components import show_error

shell.require()

address = history_state.address()
try:
    if address.run:
        history_run.show_run(address.run)
    elif address.turn:
        history_turn.show_turn_page(address.turn)
    elif address.compare:
        history_compare.show_comparison(address.compare)
    else:
        history_list.show_list()
except StoreError as error:
    show_error(error)
    st.button("Try again", icon=":material/refresh:")
