"""Facts that servers tell about themselves: their models, which program they are, how busy they are."""

import asyncio
import math
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlsplit

from core.chat_api import prometheus
from core.chat_api.client import Session, Timeouts, get
from core.chat_api.connection_errors import not_a_stream
from core.chat_api.lenient import UNREADABLE, json_document, one_line
from core.chat_api.refusals import address, failure
from core.chat_api.server_errors import ServerError, error_of, is_html
from core.chat_api.session import is_loopback
from core.domain.specs import Dialect, Endpoint
from core.domain.turns import Place
from core.errors import EngineError, LMDynoError
from core.i18n import N_

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


def read_metrics(text: str) -> ServerMetrics | None:
    """The load in what a server publishes, by the names of LMDeploy, vLLM, SGLang and llama.cpp; None
    without."""
    published = prometheus.published(text)
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
