"""Imports in the background what pages need at their first visit, so that nobody waits for it.

Plotly, pandas and the pages' own modules take a second or more to import on a small machine.
"""

import importlib
import logging
import pkgutil
import threading
from functools import cache

import core.ui

log = logging.getLogger(__name__)

_LIBRARIES = ("plotly.graph_objects", "pandas")
"""The second is Streamlit's, for its first table."""


@cache
def begin() -> threading.Thread:
    """Start once a process, when the first page has been drawn; returns the thread. Never raises."""
    thread = threading.Thread(target=_import_all, name="preload", daemon=True)
    thread.start()
    return thread


def _import_all() -> None:
    names = (module.name for module in pkgutil.walk_packages(core.ui.__path__, f"{core.ui.__name__}."))
    for name in (*_LIBRARIES, *names):
        try:
            importlib.import_module(name)
        except Exception:  # a page that needs it says what is wrong
            log.exception("not preloaded module=%s", name)
