"""History: everything that was measured; one run, one turn, or several runs side by side."""

import streamlit as st

from core.errors import StoreError
from core.i18n import _
from core.ui.history import compare_page, entry_pages, list_page, session
from core.ui.shared import shell
from core.ui.shared.components import show_error

shell.require()

address = session.address()
try:
    if address.run:
        entry_pages.show_run(address.run)
    elif address.turn:
        entry_pages.show_turn_page(address.turn)
    elif address.quality:
        entry_pages.show_quality(address.quality)
    elif address.quiz:
        entry_pages.show_quiz(address.quiz)
    elif address.sweep:
        entry_pages.show_sweep(address.sweep)
    elif address.walk:
        entry_pages.show_walk(address.walk)
    elif address.compare and compare_page.are_quality(address.compare):
        compare_page.show_quality_comparison(address.compare)
    elif address.compare:
        compare_page.show_comparison(address.compare)
    else:
        list_page.show_list()
except StoreError as error:
    show_error(error)
    st.button(_("Try again"), icon=":material/refresh:")
