"""The router: page configuration, navigation with the login gate, engine status. Pages do the rest."""

import streamlit as st

from core.ui import shell
from core.ui.engine_status import show_overview

shell.configure()

page = shell.navigate()
with st.sidebar:
    show_overview()
page.run()
