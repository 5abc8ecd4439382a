"""Whether servers answer: asked in the background, at most every few seconds, for pages that refresh.

Whoever asks gets what is known at once and never waits for a server.
"""

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from core.chat_api.probe import round_trip_s
from core.domain.specs import Endpoint
from core.domain.turns import ErrorInfo
from core.errors import LMDynoError

GOOD_FOR_S = 10.0
_TIMEOUT_S = 4.0
_THREADS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Reach:
    """The outcome of asking a server; exactly one of the two is set."""

    round_trip_s: float | None = None
    """Of its list of models."""
    error: ErrorInfo | None = None


class Reachability:
    """Thread-safe."""

    def __init__(
        self,
        ask: Callable[[Endpoint], float] = lambda endpoint: round_trip_s(endpoint, timeout_s=_TIMEOUT_S),
        *,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ask = ask
        self._now_s = now_s
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="reach")
        self._lock = threading.Lock()
        self._known: dict[str, tuple[float, Reach]] = {}
        self._asking: set[str] = set()

    def of(self, name: str, find: Callable[[], Endpoint]) -> Reach | None:
        """What is known of the lane's server; None before its first answer.

        `find` gives its endpoint and may raise LMDynoError, which then is what is known.
        """
        with self._lock:
            asked_s, reach = self._known.get(name, (float("-inf"), None))
            is_due = self._now_s() - asked_s > GOOD_FOR_S and name not in self._asking
            if is_due:
                self._asking.add(name)
        if is_due:
            self._pool.submit(self._find_out, name, find)
        return reach

    def forget(self, name: str) -> None:
        """The lane has another server now: what is known is not true of it."""
        with self._lock:
            self._known.pop(name, None)

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _find_out(self, name: str, find: Callable[[], Endpoint]) -> None:
        try:
            reach = Reach(round_trip_s=self._ask(find()))
        except LMDynoError as error:
            reach = Reach(error=ErrorInfo.of(error))
        finally:
            with self._lock:
                self._asking.discard(name)
        with self._lock:
            self._known[name] = (self._now_s(), reach)
