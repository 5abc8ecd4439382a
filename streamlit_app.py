"""The router: page configuration, navigation with the login gate, engine status. Pages do the rest."""

import streamlit as st

from core.ui.engines.status import show_overview
from core.ui.shared import shell

shell.configure()

page = shell.navigate()
with st.sidebar:
    show_overview()
page.run()
