"""Sends one chat request, timestamps its answer, and decides whether it succeeded.

Knows HTTP; the meaning of what it sends and reads is `core.chat_api.dialects`' and `stream`'. A timestamp is
taken when bytes arrive, before anything is parsed. `failure_in` is the one place that decides about success,
for the chat, load tests and everything else.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from http import HTTPStatus
from types import MappingProxyType
from typing import Any, TypeVar

import aiohttp
import orjson

from core.chat_api import failures
from core.chat_api.answer import Answer
from core.chat_api.dialects import chat_body, customised
from core.chat_api.failures import (
    connect_timeout,
    connection_failure,
    failure,
    no_first_token,
    see_log,
    stalled,
)
from core.chat_api.lenient import UNREADABLE, Inflater, ServerError, TooMuchData, json_document, refused
from core.chat_api.session import Attempt, Session, inflater, open_session, read_body
from core.chat_api.stream import EventSplitter, EventTooLarge
from core.domain.conversation import Message, Sampling
from core.domain.specs import Endpoint
from core.domain.turns import FinishReason
from core.errors import EngineError, InputError, LMDynoError
from core.i18n import N_
from core.models.context import tokenizer_in

__all__ = [
    "MISSING",
    "Session",
    "Timeouts",
    "encoded",
    "get",
    "open_session",
    "post_json",
    "send",
]

MISSING = (404, 405, 501)
"""HTTP statuses of a server that does not have an endpoint."""
_READ_BYTES = 2**14
"""What is parsed before other streams have their turn: some milliseconds of work at the very most."""
_RENEWAL_RATIO = 0.01
"""How much of a time limit may pass before it starts anew with the bytes that came since."""
_MOST_REFUSED_FIELDS = 8
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeouts:
    """Time limits for the steps of a request, each with an error of its own. There is no total limit.

    Any byte that arrives, a keep-alive comment too, proves that the server lives and starts the time anew.
    """

    connect_s: float = 10.0
    """Name look-up, TCP and TLS; code `connect-timeout`."""
    first_token_s: float = 300.0
    """Without a byte before the first text, the engine's own queue included; code `first-token-timeout`."""
    stall_s: float = 60.0
    """Without a byte once there was text; code `stall-timeout`."""
    trailer_s: float = 5.0
    """For usage and the end of the stream after a finish reason; the answer is complete without."""

    def of(self, endpoint: Endpoint) -> "Timeouts":
        """These limits with the lane's own over them."""
        return replace(
            self,
            first_token_s=endpoint.patience.first_token_s or self.first_token_s,
            stall_s=endpoint.patience.stall_s or self.stall_s,
        )


def encoded(
    endpoint: Endpoint,
    messages: Sequence[Message],
    sampling: Sampling,
    image_urls: Mapping[str, str] = MappingProxyType({}),
) -> bytes:
    """The request's body; with images megabytes, so better made in a thread before the clock starts."""
    body = chat_body(endpoint.dialect, endpoint.model, messages, sampling, image_urls)
    return orjson.dumps(customised(body, endpoint.request))


async def send(
    session: Session,
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

    A request that a kept connection lost before anything came of it is sent again on a new one, and so is
    one that the server refuses for a field that it doesn't take; the clock starts with the last sending.

    Raises LMDynoError for a request that failed; what arrived stays in `answer`. Cancelling the task closes
    the connection at once.
    """
    limits = timeouts.of(endpoint)
    adaptation = session.adaptation(endpoint)
    plain = body or encoded(endpoint, messages, sampling)
    lost: LMDynoError | None = None
    has_left = False
    try:
        for _ in range(_MOST_REFUSED_FIELDS + 1):
            data = adaptation.applied(plain)
            refusal = await _exchange(session, endpoint, data, answer, limits)
            if refusal is None:
                break
            if not adaptation.learn(refusal, data, _wanted(endpoint)):
                answer.error = refusal
                break
            answer.unsent()
    except (aiohttp.ClientError, OSError) as exc:
        lost = _lost(exc, endpoint, answer)
        has_left = isinstance(exc, TimeoutError)
    except asyncio.CancelledError:
        has_left = True
        raise
    finally:
        answer.end()
        if (has_left or answer.is_too_large) and answer.sent_at and not answer.complete:
            session.left(endpoint)
    for note in adaptation.notes():
        answer.note(note)
    if error := failure_in(answer, endpoint, lost):
        raise error
    if endpoint.tokenizer and answer.needs_counting:
        await asyncio.to_thread(_count, answer, endpoint.tokenizer)


async def post_json(
    session: Session, endpoint: Endpoint, url: str, body: object, *, timeout_s: float
) -> tuple[int, Any]:
    """Status and JSON of one POST to the endpoint's server; None if the answer is not JSON.

    A status of `MISSING` is an answer too; others than 200 raise LMDynoError, like a lost connection.
    """

    async def read(response: aiohttp.ClientResponse) -> tuple[int, Any]:
        content = await response.read()
        if response.status != HTTPStatus.OK and response.status not in MISSING:
            raise failure(refused(response.status, content, response.headers.get("Retry-After")), endpoint)
        document = json_document(content)
        return response.status, None if document is UNREADABLE else document

    return await _whole(session, "POST", endpoint, url, read, timeout_s=timeout_s, data=orjson.dumps(body))


async def get(session: Session, endpoint: Endpoint, url: str, *, timeout_s: float) -> bytes | ServerError:
    """The body of one GET from an address of the endpoint's server, or its refusal: a status other than 200.

    Raises LMDynoError for a connection that could not be made, broke, or took too long.
    """

    async def read(response: aiohttp.ClientResponse) -> bytes | ServerError:
        body = await read_body(response, endpoint)
        if response.status != HTTPStatus.OK:
            return refused(response.status, body, response.headers.get("Retry-After"))
        return body

    return await _whole(session, "GET", endpoint, url, read, timeout_s=timeout_s)


async def _whole(
    session: Session,
    method: str,
    endpoint: Endpoint,
    url: str,
    read: Callable[[aiohttp.ClientResponse], Awaitable[T]],
    *,
    timeout_s: float,
    data: bytes | None = None,
) -> T:
    try:
        async with (
            asyncio.timeout(timeout_s),
            session.request(method, url, endpoint, Attempt(), data=data) as response,
        ):
            return await read(response)
    except (aiohttp.ClientError, OSError) as exc:
        raise _lost(exc, endpoint, None) from exc


async def _exchange(
    session: Session, endpoint: Endpoint, data: bytes, answer: Answer, limits: Timeouts
) -> ServerError | None:
    """Send once, or twice if the first connection was a stale one; returns the server's refusal."""
    for fresh in (False, True):
        attempt = Attempt(on_sent=answer.sent, on_redirect=answer.unsent)
        has_begun = False
        try:
            async with (
                asyncio.timeout(limits.first_token_s) as limit,
                session.request(
                    "POST",
                    f"{endpoint.url}/chat/completions",
                    endpoint,
                    attempt,
                    data=data,
                    connect_s=limits.connect_s,
                    fresh=fresh,
                ) as response,
            ):
                has_begun = True
                _note_way(attempt, answer)
                if response.status != HTTPStatus.OK:
                    body = await read_body(response, endpoint)
                    return refused(response.status, body, response.headers.get("Retry-After"))
                inflate = inflater(response, endpoint)
                if inflate:
                    answer.note(
                        N_("The server compresses the stream, so text may arrive late and in bursts.")
                    )
                await _read(response.content, answer, limit, limits, inflate)
                return None
        except TimeoutError:
            raise
        except (aiohttp.ClientError, OSError):
            if has_begun or fresh or not attempt.is_reused:
                raise
            answer.unsent()
    raise AssertionError("a fresh connection is never a reused one")


def _note_way(attempt: Attempt, answer: Answer) -> None:
    if attempt.proxy:
        answer.note(N_("Sent through the proxy that the environment names."))
    if attempt.is_redirected:
        answer.note(
            N_("The server redirected the request. The clock starts when it is sent to the new address.")
        )


async def _read(
    content: aiohttp.StreamReader,
    answer: Answer,
    limit: asyncio.Timeout,
    limits: Timeouts,
    inflate: Inflater | None,
) -> None:
    clock = asyncio.get_running_loop().time
    splitter = EventSplitter()
    allowed_s, renewed_s = limits.first_token_s, float("-inf")
    try:
        while not answer.over:
            received = await content.read(_READ_BYTES)
            timestamp_ns = time.perf_counter_ns()
            if not received:
                answer.add(timestamp_ns, splitter.close())
                return
            answer.add(timestamp_ns, splitter.feed(inflate.feed(received) if inflate else received))
            before_s, now_s = allowed_s, clock()
            if answer.complete:
                allowed_s = limits.trailer_s
            elif answer.has_text:
                allowed_s = limits.stall_s
            # Not with each token, since thousands come a second; and the trailer's time is given once.
            if allowed_s != before_s or (
                not answer.complete and now_s - renewed_s > _RENEWAL_RATIO * allowed_s
            ):
                renewed_s = now_s
                limit.reschedule(now_s + allowed_s)
            if len(received) == _READ_BYTES:
                await asyncio.sleep(0)  # more has arrived: others' bytes are timestamped before it is parsed
    except (EventTooLarge, TooMuchData):
        answer.is_too_large = True
    finally:
        answer.stray = bytes(splitter.stray)


def _lost(exc: aiohttp.ClientError | OSError, endpoint: Endpoint, answer: Answer | None) -> LMDynoError:
    """The error for a connection that could not be made, broke, or took too long."""
    if not isinstance(exc, TimeoutError):
        return connection_failure(exc, endpoint)
    if answer is None or answer.sent_at is None:
        return connect_timeout(endpoint)
    return stalled(endpoint) if answer.has_text else no_first_token(endpoint)


def _count(answer: Answer, tokenizer_folder: str) -> None:
    try:
        answer.count_with(tokenizer_in(tokenizer_folder).count)
    except InputError as error:
        if answer.output_tokens is None:
            answer.note(N_("Tokens aren't counted: {problem}", problem=error.message))


def _wanted(endpoint: Endpoint) -> tuple[str, ...]:
    """Names of the fields that a person added to the request."""
    extra = json_document(endpoint.request.extra_body.encode()) if endpoint.request.extra_body else None
    return tuple(extra) if isinstance(extra, dict) else ()


def failure_in(answer: Answer, endpoint: Endpoint, lost: LMDynoError | None = None) -> LMDynoError | None:
    """Return why the request whose stream has ended failed; None if it was answered.

    `lost` is what became of its connection, which doesn't matter once the answer is complete. An answer is
    one if the server ended it, in events that could be understood, and not with an error; without a finish
    reason it must also hold something.
    """
    if answer.error:
        return failure(answer.error, endpoint)
    if answer.is_too_large:
        return failures.too_much(endpoint)
    if answer.finish_reason is FinishReason.ERROR:
        return _given_up(answer.finish_word, endpoint)
    if not answer.complete:
        if answer.strange:
            return failures.bad_stream(answer.strange)
        if lost:
            return lost
        if answer.stray:
            return failures.not_a_stream(endpoint, answer.stray)
        return failures.broken_off(endpoint)
    if answer.strange:
        return failures.bad_stream(answer.strange)
    if answer.finish_reason is None and not (answer.has_text or answer.calls_tool):
        return failures.empty_answer(endpoint)
    return None


def _given_up(word: str, endpoint: Endpoint) -> LMDynoError:
    return EngineError(
        N_("The engine aborted the answer: {word}", word=word),
        hint=see_log(endpoint),
        code="engine-gave-up",
    )
