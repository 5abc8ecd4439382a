"""The frame around every page: navigation, the login gate, and the guard that no page escapes them.

Streamlit runs `pages/<name>.py` without the router when a fresh server's first request is a deep link to it.
So every page begins with `require()`, and both doors lead through the same gate.

When a process has drawn its first page, it imports what the others need.
"""

import importlib
import logging
import pkgutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import streamlit as st
from streamlit.navigation.page import Page

import core.ui
from core import open_files
from core.access import guard
from core.errors import ConfigError
from core.i18n import _
from core.settings import PROJECT_ROOT, Mode, load_settings
from core.ui.shared import account, presenting, resources
from core.ui.shared.components import show_error
from core.ui.shared.visitor import VOTING_LINK, Standing, identity, visitor

log = logging.getLogger(__name__)

ICON = PROJECT_ROOT / "assets" / "icon.svg"
"""A file of our own: Streamlit fetches its named icons from a server on the internet."""
_ENTERED = "shell_entered"

_LOOKED_FOR = ("numpy", "pandas")
"""Plotly looks for these among the modules that are there, and would use one that another thread has only
half imported. So they are imported where the first page has been drawn, and no figure is drawn meanwhile."""


def pages() -> list[Page]:
    """Those of the navigation, and some that only links lead to."""
    if load_settings().mode is Mode.REPLAY:
        return [_recordings(default=True), _sessions(), _history()]
    return [
        st.Page(
            PROJECT_ROOT / "pages" / "overview.py",
            title=_("Overview"),
            icon=":material/dashboard:",
            default=True,
            help=_("See how the lanes are and how they compare, and where to begin."),
        ),
        st.Page(
            PROJECT_ROOT / "pages" / "chat.py",
            title=_("Chat"),
            icon=":material/forum:",
            url_path="chat",
            help=_("Send one prompt to several lanes and compare their answers and latency side by side."),
        ),
        st.Page(
            PROJECT_ROOT / "pages" / "vision.py",
            title=_("Vision"),
            icon=":material/imagesmode:",
            url_path="vision",
            help=_("Ask several lanes about images, in a conversation or as a quiz."),
        ),
        st.Page(
            PROJECT_ROOT / "pages" / "benchmark.py",
            title=_("Benchmark"),
            icon=":material/speed:",
            url_path="benchmark",
            help=_("Load-test lanes and endpoints: reproducible latency and throughput."),
        ),
        st.Page(
            PROJECT_ROOT / "pages" / "quality.py",
            title=_("Quality"),
            icon=":material/fact_check:",
            url_path="quality",
            help=_("Compare the lanes' answers with a reference lane to see what speed costs."),
        ),
        _sessions(),
        st.Page(
            PROJECT_ROOT / "pages" / "engines.py",
            title=_("Engines"),
            icon=":material/dns:",
            url_path="engines",
            help=_("Start, stop, and configure engines, add endpoints, and quantise models."),
        ),
        st.Page(
            PROJECT_ROOT / "pages" / "memory.py",
            title=_("Memory"),
            icon=":material/memory:",
            url_path="memory",
            help=_("See what uses GPU and host memory, and predict what an engine needs."),
        ),
        _history(),
        _recordings(default=False),
    ]


def _sessions() -> Page:
    return st.Page(
        PROJECT_ROOT / "pages" / "sessions.py",
        title=_("Sessions"),
        icon=":material/how_to_vote:",
        url_path="sessions",
        help=_("Let people vote blindly on the lanes' answers, with sound statistics."),
    )


def _history() -> Page:
    return st.Page(
        PROJECT_ROOT / "pages" / "history.py",
        title=_("History"),
        icon=":material/history:",
        url_path="history",
        help=_("Find, compare, export, and share everything that was measured."),
    )


def _recordings(*, default: bool) -> Page:
    """Where engines run, only links lead to it."""
    return st.Page(
        PROJECT_ROOT / "pages" / "recordings.py",
        title=_("Recordings"),
        icon=":material/movie:",
        url_path=None if default else "recordings",
        default=default,
        visibility="visible" if default else "hidden",
        help=_("Watch what a machine measured, with its original timing."),
    )


def is_bare() -> bool:
    """Whether the page stands alone: behind a voting link, or presented to a room."""
    return VOTING_LINK in st.query_params or presenting.presents()


def _reachable() -> list[Page]:
    """The pages that this address may lead to."""
    if VOTING_LINK in st.query_params:
        return [st.Page(PROJECT_ROOT / "pages" / "vote.py", title=_("Vote"), icon=":material/how_to_vote:")]
    return pages()


def configure() -> None:
    """Title, icon and width of the login, and of every page until it has its own title."""
    st.set_page_config(page_title="LMDyno", page_icon=ICON, layout="wide")


def navigate() -> Page:
    """The page to run, once the visitor may see it; stops the run for everybody else."""
    guard.find_identity_with(identity)
    try:
        who = visitor()
        if who.standing not in (Standing.ADMITTED, Standing.GUEST):
            account.show_door(who, st.navigation(_reachable(), position="hidden"))
            st.stop()
        page = st.navigation(all_pages := _reachable(), position="hidden" if is_bare() else "top")
        with st.spinner(_("Reading the lanes")):
            resources.lanes()
    except ConfigError as error:
        _show_config_error(error)
        st.stop()
    account.note_login()
    account.follow_wanted(all_pages)
    st.set_page_config(page_title=f"{page.title} · LMDyno")
    st.session_state[_ENTERED] = True
    # Streamlit's own Stop ends the script run, not the answers: a page has to show only the one that does.
    st.html("<style>[data-testid='stStatusWidget'] { display: none }</style>")
    return page


@contextmanager
def open_files_explained() -> Iterator[None]:
    """Tell what to do when the process can open no more files, which any part of a page may run into."""
    try:
        yield
    except OSError as exc:
        error = open_files.explained(exc)
        if error is None:
            raise
        show_error(error)


def require(*, guests: bool = False) -> None:
    """Before a page draws anything: a page that was started without the router goes through it.

    `guests` opens it to guests of a session too.
    """
    if not st.session_state.get(_ENTERED) or not _may_enter(guests):
        configure()
        st.navigation(_reachable(), position="hidden")  # ends Streamlit's own discovery of pages/
        st.rerun()  # now the router runs; address and query stay


def _may_enter(guests: bool) -> bool:
    try:
        standing = visitor().standing
        return standing is Standing.ADMITTED or (guests and standing is Standing.GUEST)
    except ConfigError:
        return False


def _show_config_error(error: ConfigError) -> None:
    st.title(_("Can't read the configuration"), anchor=False)
    show_error(error)
    st.markdown(_("Correct the file, then try again. For all settings, see `lanes.example.toml`."))
    st.button(_("Try again"), icon=":material/refresh:", type="primary")


@cache
def preload() -> threading.Thread:
    """Import in the background what pages need at their first visit, so that nobody waits for it.

    pandas and the pages' own modules take a second or more to import on a small machine. Begins once a
    process, when the first page has been drawn; returns the thread. Never raises.
    """
    for name in _LOOKED_FOR:
        importlib.import_module(name)
    thread = threading.Thread(target=_import_all, name="preload", daemon=True)
    thread.start()
    return thread


def _import_all() -> None:
    names = (module.name for module in pkgutil.walk_packages(core.ui.__path__, f"{core.ui.__name__}."))
    for name in names:
        try:
            importlib.import_module(name)
        except Exception:  # a page that needs it says what is wrong
            log.exception("not preloaded module=%s", name)
