"""The frame around every page: navigation, the login gate, and the guard that no page escapes them.

Streamlit runs `pages/<name>.py` without the router when a fresh server's first request is a deep link to it.
So every page begins with `require()`, and both doors lead through the same gate.
"""

import streamlit as st
from streamlit.errors import StreamlitSecretNotFoundError
from streamlit.navigation.page import Page

from core.errors import ConfigError
from core.settings import PROJECT_ROOT
from core.ui.shared import resources
from core.ui.shared.components import show_error

ICON = PROJECT_ROOT / "assets" / "icon.svg"
"""A file of our own: Streamlit fetches its named icons from a server on the internet."""
_ENTERED = "shell_entered"


def pages() -> list[Page]:
    return [
        st.Page(
            PROJECT_ROOT / "pages" / "chat.py",
            title="Chat",
            icon=":material/forum:",
            default=True,
            help="One prompt to several lanes, the answers side by side with their latency.",
        ),
        st.Page(
            PROJECT_ROOT / "pages" / "vision.py",
            title="Vision",
            icon=":material/imagesmode:",
            url_path="vision",
            help="Questions about images to several lanes, in conversation or as a quiz.",
        ),
        st.Page(
            PROJECT_ROOT / "pages" / "benchmark.py",
            title="Benchmark",
            icon=":material/speed:",
            url_path="benchmark",
            help="Puts load on lanes and endpoints: latency and throughput as figures that can be defended.",
        ),
        st.Page(
            PROJECT_ROOT / "pages" / "engines.py",
            title="Engines",
            icon=":material/dns:",
            url_path="engines",
            help="What runs here and elsewhere, with which settings, and how to do the same by hand.",
        ),
        st.Page(
            PROJECT_ROOT / "pages" / "memory.py",
            title="Memory",
            icon=":material/memory:",
            url_path="memory",
            help="Where the memory of GPUs and engines goes, and what an engine would take.",
        ),
        st.Page(
            PROJECT_ROOT / "pages" / "history.py",
            title="History",
            icon=":material/history:",
            url_path="history",
            help="Everything that was measured: find it again, compare it, pass it on.",
        ),
    ]


def configure() -> None:
    """Title, icon and width, the same for every page and for the login."""
    st.set_page_config(page_title="LMDyno", page_icon=ICON, layout="wide")


def navigate() -> Page:
    """The page to run, once the visitor may see it; stops the run for everybody else."""
    if not _may_enter():
        st.navigation(pages(), position="hidden")
        _show_login()
        st.stop()
    page = st.navigation(pages(), position="top")
    try:
        resources.lanes()
    except ConfigError as error:
        _show_config_error(error)
        st.stop()
    st.session_state[_ENTERED] = True
    # Streamlit's own Stop ends the script run, not the answers: a page has to show only the one that does.
    st.html("<style>[data-testid='stStatusWidget'] { display: none }</style>")
    return page


def require() -> None:
    """First line of every page: a page that was started without the router goes through it."""
    if not st.session_state.get(_ENTERED) or not _may_enter():
        configure()
        st.navigation(pages(), position="hidden")  # ends Streamlit's own discovery of pages/
        st.rerun()  # now the router runs; address and query stay


def auth_configured() -> bool:
    """Whether the secrets hold an `[auth]` table; without any secrets file the app is open."""
    try:
        return "auth" in st.secrets
    except StreamlitSecretNotFoundError:
        return False


def _may_enter() -> bool:
    return not auth_configured() or bool(st.user.is_logged_in)


def _show_login() -> None:
    with st.container(horizontal_alignment="center"):
        st.title("LMDyno", anchor=False, width="content")
        st.markdown("This dashboard is for its owners. Log in to see it.", width="content")
        st.button("Log in", type="primary", icon=":material/login:", on_click=st.login)


def _show_config_error(error: ConfigError) -> None:
    st.title("The lanes can't be read", anchor=False)
    show_error(error)
    st.markdown("Correct the file, then load this page again. `lanes.example.toml` shows everything.")
    st.button("Try again", icon=":material/refresh:", type="primary")
