"""Sends one chat request and timestamps its answer.

Knows HTTP; the meaning of what it sends and reads is `core.chat_api.dialects`'. A timestamp is taken when
bytes arrive, before anything is parsed.
"""

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType, SimpleNamespace
from typing import Any

import aiohttp
import orjson

from core.chat_api import prometheus
from core.chat_api.answer import Answer
from core.chat_api.dialects import chat_body
from core.chat_api.failures import (
    ServerError,
    broken_off,
    connect_timeout,
    connection_failure,
    error_of,
    failure,
    refusal,
)
from core.chat_api.sse import EventSplitter
from core.domain.conversation import Message
from core.domain.sampling import Sampling
from core.domain.specs import Endpoint
from core.errors import EngineError, EngineTimeout, LMDynoError

Session = aiohttp.ClientSession
"""What requests are sent with, for signatures elsewhere; made by `open_session`."""

MISSING = (404, 405, 501)
"""HTTP statuses of a server that does not have an endpoint."""
_BODY_BYTES = 2**20
_REUSE_WITHIN_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeouts:
    """How long a request may take to get on, each with an error of its own. There is no limit in total."""

    connect_s: float = 10.0
    """Name look-up, TCP and TLS; code `connect-timeout`."""
    first_token_s: float = 300.0
    """Send → first text, the engine's own queue included; code `first-token-timeout`."""
    stall_s: float = 60.0
    """Between two events once there was text; code `stall-timeout`."""
    trailer_s: float = 5.0
    """For usage and the end of the stream after a finish reason; the answer is complete without."""


def open_session(*, reuse: bool = False) -> aiohttp.ClientSession:
    """The session to send with; one a process. Must be called inside the event loop and closed.

    `reuse` keeps a connection for a request that follows within a second, as the requests of a load test do:
    a server that is asked by 64 streams at once then has no 64 connections to take as well. Otherwise each
    request has a connection of its own. Setting one up is part of no metric.
    """
    trace = aiohttp.TraceConfig()
    trace.on_request_chunk_sent.append(_timestamp_sent)
    return aiohttp.ClientSession(
        # Servers close idle connections at moments of their choosing, most after 2 s or more, and a request
        # that meets this looks like a crash.
        connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=_REUSE_WITHIN_S)
        if reuse
        else aiohttp.TCPConnector(limit=0, force_close=True),
        timeout=aiohttp.ClientTimeout(total=None),
        # A compressing proxy would hold chunks back.
        headers={"Accept-Encoding": "identity"},
        auto_decompress=False,
        trace_configs=[trace],
    )


async def with_model(session: aiohttp.ClientSession, endpoint: Endpoint, timeouts: Timeouts) -> Endpoint:
    """The endpoint with a model id: its own, else the first that the server lists. Raises EngineError."""
    if endpoint.model:
        return endpoint
    try:
        async with (
            asyncio.timeout(timeouts.connect_s),
            session.get(
                f"{endpoint.url}/models", headers=_headers(endpoint), allow_redirects=False
            ) as response,
        ):
            body = await _body(response)
    except (aiohttp.ClientError, OSError) as exc:
        raise _lost(exc, endpoint, None) from exc
    if response.status != 200:
        raise refusal(response.status, body)
    try:
        model = orjson.loads(body)["data"][0]["id"]
    except (orjson.JSONDecodeError, LookupError, TypeError) as exc:
        raise EngineError(
            "The endpoint lists no models",
            hint="Name the model in the lane's endpoint.",
            code="model-not-found",
        ) from exc
    return replace(endpoint, model=str(model))


async def post_json(
    session: aiohttp.ClientSession, endpoint: Endpoint, url: str, body: Mapping[str, Any], *, timeout_s: float
) -> tuple[int, object]:
    """The status and the JSON of an answer in one piece; None for a body that is none.

    A status of `MISSING` is an answer too; others than 200 raise LMDynoError, like a lost connection.
    """
    try:
        async with (
            asyncio.timeout(timeout_s),
            session.post(
                url,
                data=orjson.dumps(body),
                headers={"Content-Type": "application/json", **_headers(endpoint)},
                allow_redirects=False,
            ) as response,
        ):
            content = await response.read()
    except (aiohttp.ClientError, OSError) as exc:
        raise _lost(exc, endpoint, None) from exc
    if response.status != 200 and response.status not in MISSING:
        raise refusal(response.status, content)
    try:
        return response.status, orjson.loads(content)
    except orjson.JSONDecodeError:
        return response.status, None


async def metrics_text(session: aiohttp.ClientSession, endpoint: Endpoint, *, timeout_s: float) -> str | None:
    """What the server publishes at `/metrics`; None if nothing, or not all of it within the time."""
    try:
        async with (
            asyncio.timeout(timeout_s),
            session.get(
                prometheus.url_of(endpoint.url), headers=_headers(endpoint), allow_redirects=False
            ) as response,
        ):
            return await response.text("utf-8") if response.status == 200 else None
    except (aiohttp.ClientError, OSError, UnicodeDecodeError):
        return None


def encoded(
    endpoint: Endpoint,
    messages: Sequence[Message],
    sampling: Sampling,
    image_urls: Mapping[str, str] = MappingProxyType({}),
) -> bytes:
    """The request's body; with images megabytes, so better made in a thread before the clock starts."""
    return orjson.dumps(chat_body(endpoint.dialect, endpoint.model, messages, sampling, image_urls))


async def send(
    session: aiohttp.ClientSession,
    endpoint: Endpoint,
    messages: Sequence[Message],
    sampling: Sampling,
    answer: Answer,
    timeouts: Timeouts,
    *,
    body: bytes | None = None,
) -> None:
    """Send one request to an endpoint that names its model, and fill `answer` until its stream ends.

    `body` is the request as `encoded` has already made it, which messages with images need.

    Raises LMDynoError for a request that failed; what arrived stays in `answer`. Cancelling the task closes
    the connection at once.
    """
    body = body or encoded(endpoint, messages, sampling)
    limit = asyncio.timeout(timeouts.first_token_s)
    try:
        async with (
            limit,
            session.post(
                f"{endpoint.url}/chat/completions",
                data=body,
                headers={"Content-Type": "application/json", **_headers(endpoint)},
                allow_redirects=False,
                timeout=aiohttp.ClientTimeout(total=None, connect=timeouts.connect_s),
                trace_request_ctx=answer,
            ) as response,
        ):
            await _refuse_unless_stream(response)
            await _read(response.content, answer, limit, timeouts)
    except (aiohttp.ClientError, OSError) as exc:
        if not answer.complete:
            raise _lost(exc, endpoint, answer) from exc
    finally:
        answer.end()
    if not answer.complete:
        raise broken_off(endpoint.url)


async def _read(
    content: aiohttp.StreamReader, answer: Answer, limit: asyncio.Timeout, timeouts: Timeouts
) -> None:
    clock = asyncio.get_running_loop().time
    splitter = EventSplitter()
    while not answer.over:
        received = await content.readany()
        timestamp_ns = time.perf_counter_ns()
        events = splitter.feed(received) if received else splitter.close()
        if events:
            answer.add(timestamp_ns, events)
            if answer.complete:
                limit.reschedule(clock() + timeouts.trailer_s)
            elif answer.has_text:
                limit.reschedule(clock() + timeouts.stall_s)
        if not received:
            return


async def _refuse_unless_stream(response: aiohttp.ClientResponse) -> None:
    if response.status != 200:
        raise refusal(response.status, await _body(response))
    if response.content_type != "application/json":
        return
    try:
        error = error_of(orjson.loads(await _body(response)))
    except orjson.JSONDecodeError:
        error = None
    raise failure(error or ServerError("it answers in one piece instead of streaming", None))


async def _body(response: aiohttp.ClientResponse) -> bytes:
    """The body, up to a size that no error message and no list of models exceeds."""
    try:
        return await response.content.readexactly(_BODY_BYTES)
    except asyncio.IncompleteReadError as exc:
        return exc.partial


def _lost(exc: aiohttp.ClientError | OSError, endpoint: Endpoint, answer: Answer | None) -> LMDynoError:
    """The error for a connection that could not be made, broke, or took too long."""
    if not isinstance(exc, TimeoutError):
        return connection_failure(exc, endpoint.url)
    if answer is None or answer.sent_at is None:
        return connect_timeout(endpoint.url)
    if answer.has_text:
        return EngineTimeout(
            "The engine stopped in mid-answer",
            hint="What arrived is kept. For a local lane, see its log, or restart its engine.",
            code="stall-timeout",
        )
    return EngineTimeout(
        "The engine gave no first token in time",
        hint="Is it busy with other requests? For a local lane, see its log, or restart its engine.",
        code="first-token-timeout",
    )


def _headers(endpoint: Endpoint) -> dict[str, str]:
    return {"Authorization": f"Bearer {endpoint.api_key}"} if endpoint.api_key else {}


async def _timestamp_sent(
    _session: aiohttp.ClientSession,
    context: SimpleNamespace,
    _params: aiohttp.TraceRequestChunkSentParams,
) -> None:
    """aiohttp calls this, whatever the name says, just before it writes headers and body in one piece."""
    answer: Any = context.trace_request_ctx
    if isinstance(answer, Answer):
        answer.sent()
