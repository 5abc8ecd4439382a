"""An OpenAI-compatible chat server that does exactly what it is told, at the moments it is told.

Stands in for an engine in tests and measurements. What a request gets is its scenario: the `model` names one
of `SCENARIOS`, or is a JSON object of `Scenario`'s fields. The schedule counts from the request's arrival in
absolute times, so that a late chunk never delays those after it.

    python tests/scripted_server.py --port 9000
    curl -N localhost:9000/v1/chat/completions -H 'Content-Type: application/json' \\
        -d '{"model": "{\\"text\\": \\"Hi there\\", \\"interval_s\\": 1}", "messages": [], "stream": true}'

`GET /requests` tells what was asked and when which request's first and last chunk was really written.
"""

import argparse
import asyncio
import json
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import orjson
from aiohttp import web

TRANSFORMERS_FIELDS = {
    "model", "messages", "stream", "max_tokens", "max_completion_tokens", "temperature", "top_p", "seed",
    "generation_config", "stream_options", "stop", "chat_template_kwargs",
}  # fmt: skip
"""Anything else gets 422, as from `transformers serve`."""

_WRITE_BYTES = 16_384

MARKDOWN = """# Ohm's law

The current through a conductor is **proportional** to the voltage across it:

$$ I = \\frac{U}{R} $$

| symbol | quantity | unit |
|---|---|---|
| $U$ | voltage | volt |
| $R$ | resistance | ohm |

```python
def current(voltage: float, resistance: float) -> float:
    return voltage / resistance
```

1. Measure the voltage.
2. Measure the current.
3. Divide.

中文:电流与电压成正比。
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """One answer: its text, its timing, its dialect, and how it goes wrong."""

    dialect: str = "generic"
    """`lmdeploy`, `transformers` or `generic`; role-only first chunk, usage, `[DONE]` and errors follow."""
    text: str = ""
    """Sent word by word; "" makes up as many words as `chunks` says."""
    chunks: int = 10
    tokens_per_chunk: int = 1
    reasoning_chunks: int = 0
    """Of the chunks, the first ones that carry reasoning text."""
    reasoning_field: str = "reasoning_content"
    first_chunk_s: float = 0.0
    """Arrival of the request → first chunk with text."""
    interval_s: float = 0.0
    """Between chunks with text; 0 sends as fast as it can."""
    empty_chunks: int = 0
    """Chunks without text before each one with text; with lmdeploy they carry one token each."""
    finish_reason: str | None = "stop"
    usage: str | None = None
    """`separate` (a chunk without choices), `with-choices` or `none`; None is the dialect's way."""
    done: bool | None = None
    """Whether `[DONE]` is sent; None is the dialect's way."""
    newline: str = "\n"
    final_newline: bool = True
    comments: bool = False
    """A keep-alive comment before each chunk."""
    split_bytes: int = 0
    """Write the stream in pieces of this many bytes, whatever they cut apart; 0 writes whole events."""
    error: str = ""
    """With this message, in the dialect's shape: before the stream (`status`) or in it (`error_after`)."""
    status: int = 200
    error_after: int | None = None
    """Chunks before an error event."""
    cut_after: int | None = None
    """Chunks before the connection breaks."""
    end_after: int | None = None
    """Chunks before the stream ends cleanly, without finish reason, usage or `[DONE]`."""
    stall_after: int | None = None
    """Chunks before nothing comes any more."""
    hang: bool = False
    """Not even headers are sent."""
    in_one_piece: bool = False
    """Ignores `stream` and answers with one JSON document."""
    api_key: str = ""
    """Asked for if set."""

    def pieces(self) -> Iterator[str]:
        """The text of each chunk; made up one by one, since a long list would delay other requests."""
        if not self.text:
            yield from (f"word{index} " for index in range(self.chunks))
            return
        *words, last = self.text.split(" ")
        yield from (word + " " for word in words)
        yield last


SCENARIOS: dict[str, Scenario] = {
    "hello": Scenario(text="Hello from the script.", first_chunk_s=0.02, interval_s=0.01),
    "markdown": Scenario(text=MARKDOWN, first_chunk_s=0.1, interval_s=0.02),
    "slow": Scenario(chunks=300, first_chunk_s=0.2, interval_s=0.05),
    "hang": Scenario(hang=True),
    "broken": Scenario(chunks=20, interval_s=0.02, cut_after=5),
}


@dataclass(slots=True)
class Seen:
    """One request as the server saw it; times by `time.perf_counter_ns`."""

    body: dict[str, Any]
    received_ns: int
    first_chunk_ns: int | None = None
    last_chunk_ns: int | None = None
    broken_off: bool = False
    """The client closed the connection before the answer's end."""


@dataclass
class Script:
    """The web application's state: its scenarios, and what was asked of it."""

    scenarios: Mapping[str, Scenario] = field(default_factory=lambda: SCENARIOS)
    seen: list[Seen] = field(default_factory=list)

    def application(self) -> web.Application:
        app = web.Application(client_max_size=2**26)
        app.router.add_post("/v1/chat/completions", self._chat)
        app.router.add_get("/v1/models", self._models)
        app.router.add_get("/health", self._health)
        app.router.add_get("/requests", self._requests)
        return app

    async def _health(self, _request: web.Request) -> web.Response:
        return web.json_response({"status": "healthy"})

    async def _models(self, _request: web.Request) -> web.Response:
        data = [{"id": name, "object": "model"} for name in self.scenarios]
        return web.json_response({"object": "list", "data": data})

    async def _requests(self, _request: web.Request) -> web.Response:
        return web.Response(body=orjson.dumps(self.seen))

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        body = orjson.loads(await request.read())
        seen = Seen(body, time.perf_counter_ns())
        self.seen.append(seen)
        try:
            return await self._answer(request, body, seen)
        except (asyncio.CancelledError, ConnectionError):
            seen.broken_off = True
            raise

    async def _answer(self, request: web.Request, body: dict[str, Any], seen: Seen) -> web.StreamResponse:
        scenario = self._scenario(body.get("model", ""))
        if scenario is None:
            return _refusal("lmdeploy", 404, f"The model `{body.get('model')}` does not exist.")
        if scenario.hang:
            await asyncio.sleep(3600)
        if scenario.api_key and request.headers.get("Authorization") != f"Bearer {scenario.api_key}":
            return _refusal(scenario.dialect, 401, "Unauthorized.")
        unexpected = set(body) - TRANSFORMERS_FIELDS
        if scenario.dialect == "transformers" and unexpected:
            return _refusal("transformers", 422, f"Unexpected fields in the request: {unexpected}")
        if scenario.status != 200:
            return _refusal(scenario.dialect, scenario.status, scenario.error)
        if scenario.in_one_piece:
            message = {"role": "assistant", "content": "".join(scenario.pieces())}
            return web.json_response({"choices": [{"index": 0, "message": message}]})
        steps = _Schedule(scenario, body).steps()
        return await _Stream(seen, scenario.split_bytes).send(request, steps)

    def _scenario(self, model: str) -> Scenario | None:
        if model.startswith("{"):
            return Scenario(**json.loads(model))
        return self.scenarios.get(model)


def _error_body(dialect: str, message: str, status: int) -> dict[str, Any]:
    """The three shapes that servers use outside of streams."""
    kind = "invalid_request_error"
    if dialect == "lmdeploy":
        return {"message": message, "type": kind, "code": status, "param": None, "object": "error"}
    if dialect == "transformers":
        return {"detail": message}
    return {"error": {"message": message, "type": kind, "code": None}}


def _refusal(dialect: str, status: int, message: str) -> web.Response:
    return web.json_response(_error_body(dialect, message, status), status=status)


class _Step(NamedTuple):
    """A piece of the stream and when it is due, in seconds after the request's arrival."""

    due_s: float
    data: bytes
    has_text: bool = False


class _Cut(NamedTuple):
    """The moment at which the connection breaks."""

    due_s: float


class _Schedule:
    """The steps of one answer: what is sent when, without sending it."""

    def __init__(self, scenario: Scenario, body: dict[str, Any]) -> None:
        self._scenario = scenario
        self._asks_usage = bool((body.get("stream_options") or {}).get("include_usage"))
        self._names_tokens = scenario.dialect == "lmdeploy" and bool(body.get("return_token_ids"))
        self._limit = body.get("max_tokens") or sys.maxsize
        self._tokens = 0

    def steps(self) -> Iterator[_Step | _Cut]:
        scenario = self._scenario
        if scenario.dialect != "lmdeploy":
            yield _Step(0, self._chunk({"role": "assistant", "content": ""}))
        due_s = scenario.first_chunk_s
        for index, piece in enumerate(scenario.pieces()):
            if self._tokens >= self._limit:
                break
            due_s = scenario.first_chunk_s + index * scenario.interval_s
            if index == scenario.error_after:
                yield from (_Step(due_s, event) for event in self._error())
                return
            if index == scenario.cut_after:
                yield _Cut(due_s)
            if index == scenario.stall_after:
                yield _Step(due_s + 3600, b"")
            if index == scenario.end_after:
                return
            yield _Step(due_s, self._text(index, piece), has_text=True)
        yield from (_Step(due_s, event) for event in self._closing())

    def _text(self, index: int, piece: str) -> bytes:
        scenario = self._scenario
        delta: dict[str, Any] = {"role": "assistant"} if scenario.dialect == "lmdeploy" else {}
        empty = b"".join(self._chunk({**delta, "content": ""}, 1) for _ in range(scenario.empty_chunks))
        name = scenario.reasoning_field if index < scenario.reasoning_chunks else "content"
        comment = f": still here{scenario.newline * 2}".encode() if scenario.comments else b""
        return empty + comment + self._chunk({**delta, name: piece}, scenario.tokens_per_chunk)

    def _closing(self) -> Iterator[bytes]:
        scenario = self._scenario
        is_transformers = scenario.dialect == "transformers"
        way = scenario.usage or (
            "with-choices" if is_transformers else "separate" if self._asks_usage else ""
        )
        usage = self._usage() if way in ("separate", "with-choices") else None
        if scenario.finish_reason:
            reason = "length" if self._tokens >= self._limit else scenario.finish_reason
            with_it = {"usage": usage} if way == "with-choices" else {}
            yield self._chunk({"content": ""}, 0, finish_reason=reason, **with_it)
        if way == "separate":
            yield self._event(orjson.dumps({**self._head(), "choices": [], "usage": usage}))
        done = scenario.done if scenario.done is not None else not is_transformers
        if done:
            yield self._event(b"[DONE]", last=not scenario.final_newline)

    def _usage(self) -> dict[str, Any]:
        stopped = self._tokens < self._limit and self._scenario.finish_reason == "stop"
        # transformers counts the end-of-sequence token that closes an answer.
        completion = self._tokens + (stopped and self._scenario.dialect == "transformers")
        return {
            "prompt_tokens": 7,
            "completion_tokens": completion,
            "total_tokens": 7 + completion,
            "prompt_tokens_details": {"cached_tokens": 3},
        }

    def _error(self) -> Iterator[bytes]:
        message = self._scenario.error
        if self._scenario.dialect == "transformers":
            yield self._event(f'{{"error": "{message}"}}'.encode())  # it does not escape the text either
            return
        inner = {"message": message, "type": "server_error", "code": 500, "param": None, "object": "error"}
        yield self._event(orjson.dumps({"error": inner}))
        if self._scenario.dialect == "lmdeploy":
            yield self._event(b"[DONE]")

    def _chunk(
        self, delta: dict[str, Any], tokens: int = 0, *, finish_reason: str | None = None, **more: object
    ) -> bytes:
        self._tokens += tokens
        choice: dict[str, Any] = {"index": 0, "delta": delta, "finish_reason": finish_reason}
        if self._names_tokens:
            choice["output_ids"] = list(range(tokens))
        return self._event(orjson.dumps({**self._head(), "choices": [choice], **more}))

    def _head(self) -> dict[str, Any]:
        return {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "script"}

    def _event(self, data: bytes, *, last: bool = False) -> bytes:
        return b"data: " + data + (b"" if last else self._scenario.newline.encode() * 2)


class _Stream:
    """Sends one answer's steps when they are due; steps that are due together go out together."""

    def __init__(self, seen: Seen, split_bytes: int) -> None:
        self._seen = seen
        self._split_bytes = split_bytes
        self._due = bytearray()
        self._due_text = False

    async def send(self, request: web.Request, steps: Iterator[_Step | _Cut]) -> web.StreamResponse:
        clock = asyncio.get_running_loop().time
        arrived_s = clock()
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for step in steps:
            if (wait_s := arrived_s + step.due_s - clock()) > 0:
                await self._flush(response)
                await asyncio.sleep(wait_s)
            if isinstance(step, _Cut):
                await self._flush(response)
                if request.transport:
                    request.transport.abort()
                break
            self._due += step.data
            self._due_text |= step.has_text
            if len(self._due) > _WRITE_BYTES:
                await self._flush(response)
        await self._flush(response)
        return response

    async def _flush(self, response: web.StreamResponse) -> None:
        due, self._due = bytes(self._due), bytearray()
        size = self._split_bytes or max(len(due), 1)
        for start in range(0, len(due), size):
            await response.write(due[start : start + size])
        if self._due_text:
            self._due_text = False
            self._seen.last_chunk_ns = time.perf_counter_ns()
            if self._seen.first_chunk_ns is None:
                self._seen.first_chunk_ns = self._seen.last_chunk_ns


@dataclass
class RunningServer:
    """A scripted server in a thread of this process."""

    url: str
    script: Script

    @property
    def seen(self) -> list[Seen]:
        return self.script.seen


@contextmanager
def running(scenarios: Mapping[str, Scenario] | None = None) -> Iterator[RunningServer]:
    """Serve on a free port of 127.0.0.1 until the block ends."""
    script = Script({**SCENARIOS, **(scenarios or {})})
    loop = asyncio.new_event_loop()
    started: list[str] = []
    ready = threading.Event()
    stop = asyncio.Event()

    def tell(port: int) -> None:
        started.append(f"http://127.0.0.1:{port}/v1")
        ready.set()

    thread = threading.Thread(
        target=loop.run_until_complete, args=(_serve(script, 0, tell, stop),), daemon=True
    )
    thread.start()
    if not ready.wait(10):
        raise RuntimeError("the scripted server did not start")
    try:
        yield RunningServer(started[0], script)
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(10)
        loop.close()


async def _serve(script: Script, port: int, tell: Callable[[int], None], stop: asyncio.Event) -> None:
    runner = web.AppRunner(
        script.application(), access_log=None, handler_cancellation=True, shutdown_timeout=0.1
    )
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", port)
    await site.start()
    tell(runner.addresses[0][1])
    await stop.wait()
    await runner.cleanup()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--port", type=int, default=9000, help="0 takes a free one")
    port = parser.parse_args().port

    def tell(port: int) -> None:
        sys.stdout.write(f"http://127.0.0.1:{port}/v1\n")
        sys.stdout.flush()

    with suppress(KeyboardInterrupt):
        asyncio.run(_serve(Script(), port, tell, asyncio.Event()))


if __name__ == "__main__":
    main()
