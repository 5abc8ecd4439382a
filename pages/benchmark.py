"""Benchmark: put load on lanes, watch the run, and see its result."""

import streamlit as st

from core.access.guard import Action
from core.ui.benchmark.form import show_form
from core.ui.benchmark.runs import BOARD_REFRESH_S, is_running, show_benchmark_board, show_latest, show_live
from core.ui.shared import shell
from core.ui.shared.presenting import present, presents, show_present_button
from core.ui.shared.visitor import offers

shell.require()
if presents():
    present(show_benchmark_board, refresh_s=BOARD_REFRESH_S)
    st.stop()

# What people wait for comes first: the form while nothing runs, else the run.
busy = is_running()
if busy:
    show_live()
if offers(Action.START_JOB):
    show_form(folded=busy)
if not busy:
    show_live()
show_latest()
show_present_button()
