"""Engines that start together reach their device in the order in which they were asked for."""

import threading
import time
from collections.abc import Callable

_POLL_S = 0.05


class StartOrder:
    """A queue of starts, so that the baseline lane is the first to load. Thread-safe.

    A start that waits for something else, such as its weights, stands aside and holds up nobody.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last = 0
        self._queue: set[int] = set()

    def join(self) -> int:
        """A place behind all others."""
        with self._lock:
            self._last += 1
            self._queue.add(self._last)
            return self._last

    def stand_aside(self, place: int) -> None:
        """Let others pass, for a while or for good."""
        with self._lock:
            self._queue.discard(place)

    def return_to(self, place: int) -> None:
        with self._lock:
            self._queue.add(place)

    def wait(self, place: int, require_wanted: Callable[[], None]) -> None:
        """Wait for the starts ahead of `place`; `require_wanted`, called meanwhile, may raise to give up."""
        while self._is_behind(place):
            require_wanted()
            time.sleep(_POLL_S)

    def _is_behind(self, place: int) -> bool:
        with self._lock:
            return any(other < place for other in self._queue)
