"""Facts that servers tell about themselves: their models, which program they are, how busy they are.

Also connection tests and a server's load for threads that wait, by the same client as everything else, and
whether servers answer, for pages that refresh. These are thread-safe, with short time-outs. `Reachability`
asks in the background, at most every few seconds: whoever asks it gets what is known at once and never waits
for a server.
"""

import asyncio
import math
import socket
import threading
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, TypeVar
from urllib.parse import urlsplit

from prometheus_client.parser import text_string_to_metric_families

from core.access.guard import Action, authorise
from core.chat_api.client import Session, Timeouts, get, open_session
from core.chat_api.failures import address, failure, not_a_stream
from core.chat_api.lenient import UNREADABLE, ServerError, error_of, is_html, json_document, one_line
from core.chat_api.session import is_loopback
from core.domain.specs import Dialect, Endpoint, RequestOptions
from core.domain.turns import ErrorInfo, Place
from core.errors import EngineError, InputError, LMDynoError
from core.i18n import N_

T = TypeVar("T")

MAX_METRICS_CHARS = 2**20
MAX_METRICS_LINE_CHARS = 2**13
"""The parser takes half a second for a line of megabytes, and nothing else runs in the process meanwhile."""

_OWNERS = {
    "lmdeploy": Dialect.LMDEPLOY,
    "vllm": Dialect.VLLM,
    "sglang": Dialect.SGLANG,
    "llamacpp": Dialect.LLAMACPP,
}
_LISTING_S = 10.0
_PASSING = (429, 502, 503, 504)
"""Statuses of a server that is starting or under load, which soon pass."""
_PATIENCE_S = 30.0
_BACK_OFF_S = 0.5
_MAX_MODELS = 10_000

GOOD_FOR_S = 10.0
_TIMEOUT_S = 4.0
_THREADS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """A server's answer to `/models`."""

    models: tuple[str, ...]
    owners: frozenset[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerMetrics:
    """The load of a server by its own `/metrics`; None for what it doesn't offer."""

    kv_used_ratio: float | None
    running: int | None
    waiting: int | None

    @property
    def is_idle(self) -> bool | None:
        """Whether it works on nothing; None if it doesn't say."""
        if self.running is None:
            return None
        return self.running == 0 and not self.waiting


async def with_model(
    session: Session, endpoint: Endpoint, timeouts: Timeouts, *, patience_s: float = _PATIENCE_S
) -> Endpoint:
    """The endpoint with a model id: its own, else the first that the server lists. Raises EngineError.

    A server that is starting or busy is asked again, within `patience_s`.
    """
    if endpoint.model:
        return endpoint
    listing = await list_models(session, endpoint, timeout_s=timeouts.connect_s, patience_s=patience_s)
    if not listing.models:
        raise EngineError(
            N_("The server lists no models."),
            hint=N_("Set the model in the lane's endpoint."),
            code="model-not-found",
        )
    return replace(endpoint, model=listing.models[0])


async def place_of(endpoint: Endpoint, *, measured_on: str | None = None) -> Place:
    """Return where the endpoint's server is, seen from this machine, or from the node that sends the
    requests.
    """
    if measured_on is not None:
        over_network: bool | None = endpoint.node != measured_on
    else:
        host = urlsplit(endpoint.url).hostname or ""
        over_network = not is_loopback(host) and await asyncio.to_thread(_is_elsewhere, host)
    return Place(node=endpoint.node, measured_on=measured_on, over_network=over_network)


def _is_elsewhere(host: str) -> bool | None:
    """Whether none of the name's addresses is this machine's; None if it has none."""
    try:
        addresses = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return None
    return not any(_is_own(family, address) for family, _type, _protocol, _name, address in addresses)


def _is_own(family: socket.AddressFamily, address: tuple[Any, ...]) -> bool:
    """The system lets a socket have only an address of its own."""
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        try:
            probe.bind((address[0], 0, *address[2:]))
        except OSError:
            return False
    return True


async def list_models(
    session: Session, endpoint: Endpoint, *, timeout_s: float = _LISTING_S, patience_s: float = 0.0
) -> Listing:
    """Return what the server lists at `/models`. Raises EngineError, also for a server that is no
    OpenAI-compatible one.
    """
    clock = asyncio.get_running_loop().time
    deadline, wait_s = clock() + patience_s, _BACK_OFF_S
    while isinstance(
        body := await get(session, endpoint, f"{endpoint.url}/models", timeout_s=timeout_s), ServerError
    ):
        asked_s = body.retry_after_s if body.retry_after_s is not None else wait_s
        if body.status not in _PASSING or clock() + asked_s > deadline:
            raise failure(body, endpoint)
        await asyncio.sleep(asked_s)
        wait_s *= 2
    listing = _listing(json_document(body))
    if listing is None:
        raise _no_listing(endpoint, body)
    return listing


async def recognised(session: Session, endpoint: Endpoint, listing: Listing, *, timeout_s: float) -> Dialect:
    """The dialect of the program that answers: by the owner that it names, else by its own API's
    description."""
    for owner, dialect in _OWNERS.items():
        if owner in listing.owners:
            return dialect
    root = endpoint.url.rstrip("/").removesuffix("/v1")
    try:
        body = await get(session, endpoint, f"{root}/openapi.json", timeout_s=timeout_s)
    except LMDynoError:
        return Dialect.GENERIC
    paths = _field(json_document(body), "paths") if isinstance(body, bytes) else None
    is_transformers = (
        isinstance(paths, dict) and {"/load_model", "/v1/chat/completions", "/reset"} <= paths.keys()
    )
    return Dialect.TRANSFORMERS if is_transformers else Dialect.GENERIC


async def metrics_text(session: Session, endpoint: Endpoint, *, timeout_s: float) -> str | None:
    """Return what the server publishes at `/metrics`; None if nothing, or not all of it within the time."""
    try:
        body = await get(session, endpoint, metrics_url(endpoint.url), timeout_s=timeout_s)
    except LMDynoError:
        return None
    return body.decode("utf-8", "replace") if isinstance(body, bytes) else None


def published_metrics(text: str) -> dict[str, list[float]]:
    """The values of each sample by its name, one for each label set (a model, an engine).

    Empty for a text that is not in the format. What is larger than any server's is left out.
    """
    lines = text[:MAX_METRICS_CHARS].split("\n")
    readable = "\n".join(line for line in lines if len(line) <= MAX_METRICS_LINE_CHARS)
    values: dict[str, list[float]] = {}
    try:
        for family in text_string_to_metric_families(readable):
            for sample in family.samples:
                values.setdefault(sample.name, []).append(sample.value)
    except ValueError:
        return {}
    return values


def metrics_url(base_url: str) -> str:
    """Return where a server publishes them: beside the version path of its base URL."""
    return f"{base_url.rstrip('/').removesuffix('/v1')}/metrics"


def read_metrics(text: str) -> ServerMetrics | None:
    """The load in what a server publishes, by the names of LMDeploy, vLLM, SGLang and llama.cpp; None
    without."""
    published = published_metrics(text)
    kv_used = _values(published, _KV_USED)
    running = _values(published, _RUNNING)
    waiting = _values(published, _WAITING)
    if not (kv_used or running or waiting):
        return None
    return ServerMetrics(
        kv_used_ratio=max(kv_used, default=None),
        running=int(sum(running)) if running else None,
        waiting=int(sum(waiting)) if waiting else None,
    )


_KV_USED = (
    "lmdeploy:gpu_cache_usage_perc",
    "vllm:gpu_cache_usage_perc",
    "vllm:kv_cache_usage_perc",
    "sglang:token_usage",
    "llamacpp:kv_cache_usage_ratio",
)
_RUNNING = (
    "lmdeploy:num_requests_running",
    "vllm:num_requests_running",
    "sglang:num_running_reqs",
    "llamacpp:requests_processing",
)
_WAITING = (
    "lmdeploy:num_requests_waiting",
    "vllm:num_requests_waiting",
    "sglang:num_queue_reqs",
    "llamacpp:requests_deferred",
)


def _values(published: Mapping[str, Sequence[float]], names: Sequence[str]) -> list[float]:
    """The finite values of the gauges of these names: a server may publish NaN for what it can't tell."""
    return [
        value for name in names for value in published.get(name, ()) if math.isfinite(value) and value >= 0
    ]


def _listing(document: object) -> Listing | None:
    """The models of any shape of list; None for a document that holds none."""
    entries = document
    if isinstance(document, dict):
        if document.get("object") == "list" and document.get("data", ()) is None:
            entries = []
        else:
            entries = document.get("data") or document.get("models")
            if entries is None and "data" in document:
                entries = []
    if not isinstance(entries, list):
        return None
    models, owners = [], set()
    for entry in entries[:_MAX_MODELS]:
        name = entry if isinstance(entry, str) else _first_text(entry, "id", "name", "model")
        if name:
            models.append(one_line(name, 300))
        if owner := _first_text(entry, "owned_by"):
            owners.add(owner.lower())
    if entries and not models:
        return None
    return Listing(models=tuple(dict.fromkeys(models)), owners=frozenset(owners))


def _no_listing(endpoint: Endpoint, body: bytes) -> LMDynoError:
    document = json_document(body)
    if is_html(body) or (document is not UNREADABLE and error_of(document)):
        return not_a_stream(endpoint, body)
    return EngineError(
        N_("{url} doesn't answer like an OpenAI-compatible server.", url=address(endpoint)),
        hint=N_("The base URL usually ends in /v1. Open it in a browser to see what answers there."),
        code="endpoint-not-openai",
    )


def _first_text(entry: object, *names: str) -> str | None:
    return next((value for name in names if isinstance(value := _field(entry, name), str) and value), None)


def _field(document: object, name: str) -> Any:  # noqa: ANN401 - JSON
    return document.get(name) if isinstance(document, dict) else None


def host_of(url: str) -> str:
    """Host and port, without credentials."""
    return urlsplit(url).netloc.rpartition("@")[2]


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
