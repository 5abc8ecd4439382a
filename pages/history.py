"""History: everything that was measured; one run, one turn, or several runs side by side."""

import streamlit as st

from core.errors import StoreError
from core.i18n import _
from core.ui.history import compare_page as history_compare
from core.ui.history import job_result_page as history_results
from core.ui.history import list_page as history_list
from core.ui.history import quality_page as history_quality
from core.ui.history import run_page as history_run
from core.ui.history import session as history_state
from core.ui.history import turn_page as history_turn
from core.ui.history import walk_page as history_walk
from core.ui.shared import shell
from core.ui.shared.components import show_error

shell.require()

address = history_state.address()
try:
    if address.run:
        history_run.show_run(address.run)
    elif address.turn:
        history_turn.show_turn_page(address.turn)
    elif address.quality:
        history_quality.show_quality(address.quality)
    elif address.quiz:
        history_results.show_quiz(address.quiz)
    elif address.sweep:
        history_results.show_sweep(address.sweep)
    elif address.walk:
        history_walk.show_walk(address.walk)
    elif address.compare and history_quality.are_quality(address.compare):
        history_quality.show_comparison(address.compare)
    elif address.compare:
        history_compare.show_comparison(address.compare)
    else:
        history_list.show_list()
except StoreError as error:
    show_error(error)
    st.button(_("Try again"), icon=":material/refresh:")
