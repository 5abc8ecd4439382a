"""Benchmark: put load on lanes, watch it, and see what came of it."""

import streamlit as st

from core.access.guard import Action
from core.ui.benchmark.form import show_fields
from core.ui.benchmark.latest import show_latest
from core.ui.benchmark.live import show_live
from core.ui.benchmark.start import show_start
from core.ui.shared import shell
from core.ui.shared.rights import offers

shell.require()

with st.container(border=True):
    if offers(Action.START_JOB):
        show_fields()
        show_start()

show_live()
show_latest()
