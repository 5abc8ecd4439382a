"""The router: page configuration, language, navigation with the login gate, engine status."""

import streamlit as st

from core.access.guard import is_read_only
from core.i18n import _
from core.ui.chat import session as chat_session
from core.ui.engines.status import show_overview
from core.ui.shared import browser, shell, visitor

shell.configure()
browser.settle_language()

page = shell.navigate()
if not shell.is_bare():
    with st.sidebar:
        if is_read_only():
            st.caption(f":material/replay: {_('Recordings only. Nothing is measured here.')}")
        else:
            show_overview(refreshes=chat_session.sidebar_refreshes())
        browser.show_language_switch()
        visitor.show_account()
    st.title(page.title, anchor=False)
with shell.open_files_explained():
    page.run()
shell.preload()
