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
from dataclasses import dataclass
from functools import cache

import streamlit as st
from streamlit.navigation.page import Page

import core.ui
from core import process_setup
from core.access import guard
from core.errors import ConfigError
from core.i18n import N_, Text, _
from core.settings import PROJECT_ROOT, Mode, load_settings
from core.ui.shared import presenting, resources
from core.ui.shared.components import show_error
from core.ui.shared.visitor import (
    VOTING_LINK,
    Standing,
    follow_wanted,
    identity,
    leave_when_expired,
    note_login,
    show_door,
    visitor,
)

log = logging.getLogger(__name__)

ICON = PROJECT_ROOT / "assets" / "icon.svg"
"""A file of our own: Streamlit fetches its named icons from a server on the internet."""
_ENTERED = "shell_entered"

_LOOKED_FOR = ("numpy", "pandas")
"""Plotly looks for these among the modules that are there, and would use one that another thread has only
half imported. So they are imported where the first page has been drawn, and no figure is drawn meanwhile."""


@dataclass(frozen=True, slots=True)
class _Entry:
    """A page in the navigation."""

    title: Text
    icon: str
    purpose: Text


_NAVIGATION = {
    "overview": _Entry(
        N_("Overview"),
        ":material/dashboard:",
        N_("See how the lanes are and how they compare, and where to begin."),
    ),
    "chat": _Entry(
        N_("Chat"),
        ":material/forum:",
        N_("Send one prompt to several lanes and compare their answers and latency side by side."),
    ),
    "vision": _Entry(
        N_("Vision"),
        ":material/imagesmode:",
        N_("Ask several lanes about images, in a conversation or as a quiz."),
    ),
    "benchmark": _Entry(
        N_("Benchmark"),
        ":material/speed:",
        N_("Load-test lanes and endpoints: reproducible latency and throughput."),
    ),
    "quality": _Entry(
        N_("Quality"),
        ":material/fact_check:",
        N_("Compare the lanes' answers with a reference lane to see what speed costs."),
    ),
    "sessions": _Entry(
        N_("Sessions"),
        ":material/how_to_vote:",
        N_("Let people vote blindly on the lanes' answers, with sound statistics."),
    ),
    "engines": _Entry(
        N_("Engines"),
        ":material/dns:",
        N_("Start, stop, and configure engines, add endpoints, and quantise models."),
    ),
    "memory": _Entry(
        N_("Memory"),
        ":material/memory:",
        N_("See what uses GPU and host memory, and predict what an engine needs."),
    ),
    "history": _Entry(
        N_("History"),
        ":material/history:",
        N_("Find, compare, export, and share everything that was measured."),
    ),
    "recordings": _Entry(
        N_("Recordings"),
        ":material/movie:",
        N_("Watch what a machine measured, with its original timing."),
    ),
}
"""By the name of their file in `pages/`, which is their path in the address, in the navigation's order."""
_LINKED_ONLY = ("recordings",)
"""No entry in the navigation leads to them where engines run."""


def pages() -> list[Page]:
    """Those of the navigation, and some that only links lead to."""
    if load_settings().mode is Mode.REPLAY:
        return [_page("recordings", is_default=True), _page("sessions"), _page("history")]
    return [
        _page(name, is_default=name == "overview", is_hidden=name in _LINKED_ONLY) for name in _NAVIGATION
    ]


def _page(name: str, *, is_default: bool = False, is_hidden: bool = False) -> Page:
    entry = _NAVIGATION[name]
    return st.Page(
        PROJECT_ROOT / "pages" / f"{name}.py",
        title=_(entry.title),
        icon=entry.icon,
        url_path=None if is_default else name,
        default=is_default,
        visibility="hidden" if is_hidden else "visible",
        help=_(entry.purpose),
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
            show_door(who, st.navigation(_reachable(), position="hidden"))
            st.stop()
        page = st.navigation(all_pages := _reachable(), position="hidden" if is_bare() else "top")
        with st.spinner(_("Reading the lanes")):
            resources.lanes()
    except ConfigError as error:
        _show_config_error(error)
        st.stop()
    note_login()
    leave_when_expired()
    follow_wanted(all_pages, page)
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
        error = process_setup.explain_open_files(exc)
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
