"""Benchmark: put load on lanes, watch it, and see what came of it."""

import streamlit as st

from core.ui import shell
from core.ui.bench_form import show_fields
from core.ui.bench_latest import show_latest
from core.ui.bench_live import show_live
from core.ui.bench_start import show_start

shell.require()

with st.container(border=True):
    show_fields()
    show_start()

show_live()
show_latest()
