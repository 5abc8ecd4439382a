"""Connection tests and a server's load, for threads that wait, by the same client as everything else; and
whether servers answer, for pages that refresh.

Thread-safe, with short time-outs. `Reachability` asks in the background, at most every few seconds: whoever
asks it gets what is known at once and never waits for a server.
"""

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from core.access.guard import Action, authorise
from core.chat_api.client import metrics_text, open_session
from core.chat_api.servers import ServerMetrics, host_of, list_models, read_metrics, recognised
from core.chat_api.session import Session
from core.domain.specs import Dialect, Endpoint, RequestOptions
from core.domain.turns import ErrorInfo
from core.errors import InputError, LMDynoError
from core.i18n import N_

__all__ = ["EndpointReport", "ServerMetrics", "probe", "server_metrics"]

T = TypeVar("T")
GOOD_FOR_S = 10.0
_TIMEOUT_S = 4.0
_THREADS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointReport:
    """The answer to a connection test."""

    models: tuple[str, ...]
    dialect: Dialect
    """By what the server says of itself; GENERIC where it is not known."""
    round_trip_s: float
    has_metrics: bool


def probe(
    url: str,
    api_key: str | None = None,
    *,
    options: RequestOptions = RequestOptions(),  # noqa: B008 - frozen
    timeout_s: float = 5.0,
) -> EndpointReport:
    """List the models at a base URL such as `http://host:23333/v1`.

    Raises AccessDenied, since it makes this machine send requests anywhere; InputError for another scheme
    than HTTP; and EngineError: not reachable, no answer in time, key refused, or no OpenAI-compatible server.
    """
    authorise(Action.TEST_ENDPOINT, host_of(url))
    if not url.startswith(("http://", "https://")):
        raise InputError(
            N_("“{url}” isn't a valid URL.", url=url), hint=N_("Start it with http:// or https://.")
        )
    endpoint = _endpoint(url, api_key, options)

    async def ask(session: Session) -> EndpointReport:
        started = time.perf_counter()
        listing = await list_models(session, endpoint, timeout_s=timeout_s)
        round_trip_s = time.perf_counter() - started
        dialect, metrics = await asyncio.gather(
            recognised(session, endpoint, listing, timeout_s=timeout_s),
            metrics_text(session, endpoint, timeout_s=timeout_s),
        )
        return EndpointReport(
            models=listing.models,
            dialect=dialect,
            round_trip_s=round_trip_s,
            has_metrics=metrics is not None and read_metrics(metrics) is not None,
        )

    return _with_session(ask)


def server_metrics(url: str, api_key: str | None = None, *, timeout_s: float = 2.0) -> ServerMetrics | None:
    """The load that `/metrics` beside the base URL shows; None without one."""
    endpoint = _endpoint(url, api_key, RequestOptions())
    text = _with_session(lambda session: metrics_text(session, endpoint, timeout_s=timeout_s))
    return None if text is None else read_metrics(text)


def round_trip_s(endpoint: Endpoint, *, timeout_s: float) -> float:
    """Return how long a lane's server takes for its list of models; raises EngineError if it gives none."""

    async def ask(session: Session) -> float:
        started_s = time.perf_counter()
        await list_models(session, endpoint, timeout_s=timeout_s)
        return time.perf_counter() - started_s

    return _with_session(ask)


def _endpoint(url: str, api_key: str | None, options: RequestOptions) -> Endpoint:
    return Endpoint(url=url.rstrip("/"), model="", dialect=Dialect.GENERIC, api_key=api_key, request=options)


def _with_session(ask: Callable[[Session], Awaitable[T]]) -> T:
    async def run() -> T:
        async with open_session() as session:
            return await ask(session)

    return asyncio.run(run())


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
        """Return what is known of the lane's server; None before its first answer.

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
