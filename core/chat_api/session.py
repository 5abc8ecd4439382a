"""Connections to chat servers, by one set of rules for requests, connection tests and lists of models.

Never a proxy for this machine itself; for others the one that the environment names. Redirects are followed
on the same host only, since a key belongs to a host. Uncompressed answers are asked for. Requests that a
server refuses for one of their fields are sent again without it, once for each field.
"""

import asyncio
import ipaddress
import re
import urllib.request
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace, TracebackType
from typing import Any, Self
from urllib.parse import urljoin, urlsplit

import aiohttp
import orjson

from core.chat_api.failures import compressed, names_a_length, redirects, too_much
from core.chat_api.lenient import Inflater, ServerError, TooMuchData
from core.domain.specs import Endpoint
from core.i18n import N_, Text

MAX_BODY_BYTES = 4 * 2**20
"""No list of models and no error message is larger."""
_READ_BYTES = 2**16
_REUSE_WITHIN_S = 1.0
_MAX_REDIRECTS = 3
_REDIRECTS = (301, 302, 303, 307, 308)
_SEE_OTHER = 303
_PORTS = {"http": 80, "https": 443}
_UNSUPPORTED = re.compile(
    r"unsupported|not supported|(does not|doesn't|isn't|not) support|unrecogni[sz]ed|unknown|unexpected"
    r"|not permitted|not allowed|forbidden|extra (inputs?|fields?|propert)|additional propert"
    r"|invalid (param|field|arg)"
    r"|cannot find field|no such (param|field|arg)|is not a valid (param|field)",
    re.IGNORECASE,
)
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_NEEDED = frozenset({"model", "messages", "stream"})
_LENGTH_NAMES = ("max_tokens", "max_completion_tokens")


@dataclass(slots=True)
class Adaptation:
    """The fields that one endpoint was found not to take."""

    left_out: list[str] = field(default_factory=list)
    length_name: str | None = None
    """The name of max_tokens that the server asked for."""

    def applied(self, body: bytes) -> bytes:
        """The request as the server takes it."""
        if not self.left_out and self.length_name is None:
            return body
        document: dict[str, Any] = orjson.loads(body)
        for name in self.left_out:
            document.pop(name, None)
        for name in _LENGTH_NAMES:
            if self.length_name and name != self.length_name and name in document:
                document[self.length_name] = document.pop(name)
        return orjson.dumps(document)

    def learn(self, error: ServerError, body: bytes, keep: Collection[str] = ()) -> bool:
        """Whether the request can be sent differently than in `body` after this refusal.

        The fields in `keep` were asked for by a person and are never left out.
        """
        document: dict[str, Any] = orjson.loads(body)
        name = _refused_field(error, document.keys() - _NEEDED - set(keep))
        if name is None:
            return False
        if name not in _LENGTH_NAMES:
            self.left_out.append(name)
            return True
        other = _LENGTH_NAMES[name == _LENGTH_NAMES[0]]
        if self.length_name is not None or other not in error.words:
            return False  # without a limit an answer could go on for ever
        self.length_name = other
        return True

    def notes(self) -> list[Text]:
        """Return what a reader of the numbers must know."""
        notes: list[Text] = [
            N_("The server refused {field}, so requests are sent without it.", field=name)
            for name in self.left_out
        ]
        if self.length_name:
            notes.append(N_("The server uses {field} instead of max_tokens.", field=self.length_name))
        return notes


def _refused_field(error: ServerError, fields: Collection[str]) -> str | None:
    """The field of the request that the server refuses by its name."""
    words = f"{error.code} {error.words}"
    if error.status not in (400, 422) or not _UNSUPPORTED.search(words) or names_a_length(words):
        return None
    named = [
        error.param.removeprefix("body.").split(".")[0],
        *(found[0] for found in _NAME.finditer(error.words)),
    ]
    return next((name for name in named if name in fields), None)


@dataclass(slots=True, kw_only=True)
class Attempt:
    """One sending of a request; filled while it is sent."""

    on_sent: Callable[[], None] | None = None
    """Called when the connection stands and the request is written to it."""
    on_redirect: Callable[[], None] | None = None
    """Called when it is to be sent again, to another address."""
    is_reused: bool = False
    """It goes over a connection that served another request before."""
    is_redirected: bool = False
    proxy: str | None = None


class Session:
    """The connections and adaptations that requests are sent with; one a process. Belongs to one
    event loop.
    """

    def __init__(self, *, reuse: bool, on_left: Callable[[Endpoint], None] | None = None) -> None:
        self._reuse = reuse
        self._on_left = on_left
        self._pooled: aiohttp.ClientSession | None = None
        self._fresh: aiohttp.ClientSession | None = None
        self._proxies: dict[tuple[str, str], str | None] = {}
        self._adaptations: dict[tuple[str, str], Adaptation] = {}

    async def __aenter__(self) -> Self:
        # Servers close idle connections at moments of their choosing, most after 2 s or more.
        pool = aiohttp.TCPConnector(limit=0, keepalive_timeout=_REUSE_WITHIN_S)
        self._fresh = _client(aiohttp.TCPConnector(limit=0, force_close=True))
        self._pooled = _client(pool) if self._reuse else self._fresh
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for client in (self._pooled, self._fresh):
            if client is not None:
                await client.close()

    def left(self, endpoint: Endpoint) -> None:
        """A request was left before its answer ended: the server may go on with it."""
        if self._on_left:
            self._on_left(endpoint)

    def adaptation(self, endpoint: Endpoint) -> Adaptation:
        """Return what the endpoint was found not to take."""
        return self._adaptations.setdefault((endpoint.url, endpoint.model), Adaptation())

    @asynccontextmanager
    async def request(
        self,
        method: str,
        url: str,
        endpoint: Endpoint,
        attempt: Attempt,
        *,
        data: bytes | None = None,
        connect_s: float | None = None,
        fresh: bool = False,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """The response to one request to the endpoint's host, with its key and headers.

        `fresh` takes a new connection. Raises what aiohttp raises, and EngineError for a redirect to another
        host.
        """
        client = self._fresh if fresh else self._pooled
        if client is None:
            raise RuntimeError("a session is entered before it is used")
        headers = _headers(endpoint)
        if data is not None:
            headers["Content-Type"] = "application/json"
        for _ in range(_MAX_REDIRECTS + 1):
            attempt.proxy = self._proxy(url)
            async with client.request(
                method,
                url,
                data=data,
                headers=headers,
                allow_redirects=False,
                proxy=attempt.proxy,
                timeout=aiohttp.ClientTimeout(total=None, connect=connect_s),
                trace_request_ctx=attempt,
            ) as response:
                target = _redirect_target(url, response)
                if target is None:
                    yield response
                    return
            if not _is_same_host(url, target) or (response.status == _SEE_OTHER and method != "GET"):
                raise redirects(endpoint, target)
            url = target
            attempt.is_redirected = True
            if attempt.on_redirect:
                attempt.on_redirect()
        raise redirects(endpoint, url)

    def _proxy(self, url: str) -> str | None:
        parts = urlsplit(url)
        key = (parts.scheme, parts.hostname or "")
        if key not in self._proxies:
            self._proxies[key] = proxy_for(*key)
        return self._proxies[key]


def open_session(*, reuse: bool = False, on_left: Callable[[Endpoint], None] | None = None) -> Session:
    """The session to send with; enter it inside the event loop.

    `on_left` is told each endpoint at which a request was left before its answer ended; it must return at
    once.

    `reuse` keeps a connection for a request that follows within a second, as the requests of a load test do:
    a server that is asked by 64 streams at once then has no 64 connections to take as well. Otherwise each
    request has a connection of its own. Setting one up is part of no metric.
    """
    return Session(reuse=reuse, on_left=on_left)


def proxy_for(scheme: str, host: str) -> str | None:
    """The proxy that the environment names for a host; None for this machine itself."""
    if is_loopback(host) or urllib.request.proxy_bypass(host):
        return None
    proxy = urllib.request.getproxies().get(scheme)
    return proxy if proxy and proxy.startswith(("http://", "https://")) else None


def is_loopback(host: str) -> bool:
    """Whether a host name or address is this machine's own."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


async def read_body(
    response: aiohttp.ClientResponse, endpoint: Endpoint, *, most_bytes: int = MAX_BODY_BYTES
) -> bytes:
    """The body as it is meant, up to a size. Raises EngineError for an encoding that can't be read."""
    inflate = inflater(response, endpoint)
    body = bytearray()
    while len(body) < most_bytes and (received := await response.content.read(_READ_BYTES)):
        try:
            body += inflate.feed(received) if inflate else received
        except TooMuchData:
            raise too_much(endpoint) from None
        await asyncio.sleep(0)
    return bytes(body[:most_bytes])


def inflater(response: aiohttp.ClientResponse, endpoint: Endpoint) -> Inflater | None:
    """Return what undoes the response's compression; None without any. Raises EngineError for one that nobody
    asked for and that can't be undone.
    """
    encoding = response.headers.get("Content-Encoding", "").strip().lower()
    if encoding in ("", "identity"):
        return None
    if encoding not in Inflater.ENCODINGS:
        raise compressed(endpoint, encoding)
    return Inflater()


def _client(connector: aiohttp.TCPConnector) -> aiohttp.ClientSession:
    trace = aiohttp.TraceConfig()
    trace.on_request_chunk_sent.append(_on_sent)
    trace.on_connection_reuseconn.append(_on_reused)
    return aiohttp.ClientSession(
        connector=connector,
        timeout=aiohttp.ClientTimeout(total=None),
        # A compressing proxy would hold chunks back.
        headers={"Accept-Encoding": "identity"},
        auto_decompress=False,
        trace_configs=[trace],
    )


def _headers(endpoint: Endpoint) -> dict[str, str]:
    headers = dict(endpoint.request.headers)
    if endpoint.api_key and not any(name.lower() == "authorization" for name in headers):
        headers["Authorization"] = f"Bearer {endpoint.api_key}"
    return headers


def _redirect_target(url: str, response: aiohttp.ClientResponse) -> str | None:
    location = response.headers.get("Location")
    return urljoin(url, location) if location and response.status in _REDIRECTS else None


def _is_same_host(url: str, target: str) -> bool:
    """Whether a redirect stays with the host, on the same port or from HTTP's to HTTPS' own."""
    try:
        here, there = _host(url), _host(target)
    except ValueError:
        return False
    is_upgrade = (here[0], here[2], there[0], there[2]) == ("http", 80, "https", 443)
    return here[1] == there[1] and (here == there or is_upgrade)


def _host(url: str) -> tuple[str, str, int | None]:
    parts = urlsplit(url)
    return parts.scheme, (parts.hostname or "").lower(), parts.port or _PORTS.get(parts.scheme)


async def _on_sent(
    _session: aiohttp.ClientSession, context: SimpleNamespace, _params: aiohttp.TraceRequestChunkSentParams
) -> None:
    """aiohttp calls this, whatever the name says, just before it writes headers and body in one piece."""
    attempt: Any = context.trace_request_ctx
    if isinstance(attempt, Attempt) and attempt.on_sent:
        attempt.on_sent()


async def _on_reused(
    _session: aiohttp.ClientSession, context: SimpleNamespace, _params: aiohttp.TraceConnectionReuseconnParams
) -> None:
    attempt: Any = context.trace_request_ctx
    if isinstance(attempt, Attempt):
        attempt.is_reused = True
