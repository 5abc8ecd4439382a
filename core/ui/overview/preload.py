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

_LIBRARY = "plotly.graph_objects"
_LOOKED_FOR = ("numpy", "pandas")
"""Plotly looks for these among the modules that are there, and would use one that another thread has only
half imported. So they are imported where the first page has been drawn, and no figure is drawn meanwhile."""


@cache
def begin() -> threading.Thread:
    """Start once a process, when the first page has been drawn; returns the thread. Never raises."""
    for name in _LOOKED_FOR:
        importlib.import_module(name)
    thread = threading.Thread(target=_import_all, name="preload", daemon=True)
    thread.start()
    return thread


def _import_all() -> None:
    names = (module.name for module in pkgutil.walk_packages(core.ui.__path__, f"{core.ui.__name__}."))
    for name in (_LIBRARY, *names):
        try:
            importlib.import_module(name)
        except Exception:  # a page that needs it says what is wrong
            log.exception("not preloaded module=%s", name)
