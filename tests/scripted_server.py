"""An OpenAI-compatible chat server that does exactly what it is told, at the moments it is told.

Stands in for an engine in tests and measurements. What a request gets is its scenario: the `model` names one
of `SCENARIOS`, or is a JSON object of `Scenario`'s fields, or a list of such objects, which its requests get
in turn. The schedule counts from the request's arrival in absolute times (see `timed_http`), so that neither
a busy server nor a late chunk delays what comes after.

    python -m tests.scripted_server --port 9000
    curl -N localhost:9000/v1/chat/completions -H 'Content-Type: application/json' \\
        -d '{"model": "{\\"text\\": \\"Hi there\\", \\"interval_s\\": 1}", "messages": [], "stream": true}'

`GET /requests` tells what was asked, when it arrived, and when each chunk of the answer was really written.
"""

import argparse
import gc
import json
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import accumulate, cycle
from typing import Any

import orjson

from tests import timed_http
from tests.timed_http import Cut, Request, Step, Stream, Whole

TRANSFORMERS_FIELDS = {
    "model", "messages", "stream", "max_tokens", "max_completion_tokens", "temperature", "top_p", "seed",
    "generation_config", "stream_options", "stop", "chat_template_kwargs",
}  # fmt: skip
"""Anything else gets 422, as from `transformers serve`."""

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
    """`lmdeploy`, `transformers`, `vllm`, `sglang`, `llamacpp` or `generic`; role-only first chunk, usage,
    `[DONE]` and errors follow."""
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
    gaps_s: Sequence[float] = ()
    """Instead of `interval_s`: the gaps one after another, from the start again after the last."""
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

    def dues_s(self) -> Iterator[float]:
        """When each chunk with text is due after the request's arrival, without end."""
        return accumulate(cycle(self.gaps_s or (self.interval_s,)), initial=self.first_chunk_s)


SCENARIOS: dict[str, Scenario] = {
    "hello": Scenario(text="Hello from the script.", first_chunk_s=0.02, interval_s=0.01),
    "markdown": Scenario(text=MARKDOWN, first_chunk_s=0.1, interval_s=0.02),
    "slow": Scenario(chunks=12_000, first_chunk_s=0.2, interval_s=0.05),  # ten minutes: it is stopped
    "hang": Scenario(hang=True),
    "broken": Scenario(chunks=20, interval_s=0.02, cut_after=5),
}


@dataclass(slots=True)
class Seen:
    """One request as the server saw it; times by `time.perf_counter_ns`."""

    body: dict[str, Any]
    received_ns: int
    """When its last byte arrived at this machine, however late the server came to read it."""
    chunk_ns: list[int] = field(default_factory=list)
    """Just before each chunk with text was handed to the socket."""
    ended_ns: int | None = None
    """The same for the answer's end, or when the connection was cut."""
    broken_off: bool = False
    """The client closed the connection before the answer's end."""

    def text_written(self, timestamp_ns: int, chunks: int) -> None:
        self.chunk_ns.extend([timestamp_ns] * chunks)

    def ended(self, timestamp_ns: int) -> None:
        self.ended_ns = timestamp_ns

    def break_off(self) -> None:
        self.broken_off = True


@dataclass
class Script:
    """What the server answers: its scenarios, and what was asked of it."""

    scenarios: Mapping[str, Scenario] = field(default_factory=lambda: SCENARIOS)
    seen: list[Seen] = field(default_factory=list)
    turns: Counter[str] = field(default_factory=Counter)
    """How many requests each described model has had."""
    metrics: Callable[[], Whole | Stream] | None = None
    """Answers `GET /metrics`; None publishes none."""

    def answer(self, request: Request) -> Whole | Stream:
        match request.method, request.path:
            case "POST", "/v1/chat/completions":
                return self._chat(request)
            case "GET", "/v1/models":
                data = [{"id": name, "object": "model"} for name in self.scenarios]
                return _json({"object": "list", "data": data})
            case "GET", "/health":
                return _json({"status": "healthy"})
            case "GET", "/requests":
                return _json(self.seen)
            case "GET", "/metrics" if self.metrics:
                return self.metrics()
        return _json({"detail": "Not Found"}, 404)

    def _chat(self, request: Request) -> Whole | Stream:
        body = orjson.loads(request.body)
        seen = Seen(body, request.arrived_ns)
        self.seen.append(seen)
        scenario = self._scenario(body.get("model", ""))
        if scenario is None:
            return _refusal("lmdeploy", 404, f"The model `{body.get('model')}` does not exist.")
        if not scenario.hang and (refusal := _refused(scenario, request, body)):
            seen.ended(time.perf_counter_ns())
            return refusal
        if scenario.in_one_piece:
            message = {"role": "assistant", "content": "".join(scenario.pieces())}
            return _json({"choices": [{"index": 0, "message": message}]})
        return Stream(
            steps=_Schedule(scenario, body).steps(),
            on_marked=seen.text_written,
            on_ended=seen.ended,
            on_broken_off=seen.break_off,
            split_bytes=scenario.split_bytes,
            is_silent=scenario.hang,
        )

    def _scenario(self, model: str) -> Scenario | None:
        if not model.startswith(("{", "[")):
            return self.scenarios.get(model)
        described = _described(model)
        turn, self.turns[model] = self.turns[model], self.turns[model] + 1
        return described[turn % len(described)]


@lru_cache
def _described(model: str) -> tuple[Scenario, ...]:
    found = json.loads(model)
    return tuple(Scenario(**fields) for fields in (found if isinstance(found, list) else [found]))


def _refused(scenario: Scenario, request: Request, body: Mapping[str, Any]) -> Whole | None:
    """The error that the request gets instead of a stream."""
    if scenario.api_key and request.headers.get("authorization") != f"Bearer {scenario.api_key}":
        return _refusal(scenario.dialect, 401, "Unauthorized.")
    unexpected = set(body) - TRANSFORMERS_FIELDS
    if scenario.dialect == "transformers" and unexpected:
        return _refusal("transformers", 422, f"Unexpected fields in the request: {unexpected}")
    if scenario.status != 200:
        return _refusal(scenario.dialect, scenario.status, scenario.error)
    return None


def _error_body(dialect: str, message: str, status: int) -> dict[str, Any]:
    """The three shapes that servers use outside of streams."""
    kind = "invalid_request_error"
    if dialect == "lmdeploy":
        return {"message": message, "type": kind, "code": status, "param": None, "object": "error"}
    if dialect == "transformers":
        return {"detail": message}
    return {"error": {"message": message, "type": kind, "code": None}}


def _refusal(dialect: str, status: int, message: str) -> Whole:
    return _json(_error_body(dialect, message, status), status)


def _json(value: object, status: int = 200) -> Whole:
    return Whole(body=orjson.dumps(value), status=status)


class _Schedule:
    """The steps of one answer: what is sent when, without sending it."""

    def __init__(self, scenario: Scenario, body: dict[str, Any]) -> None:
        self._scenario = scenario
        self._asks_usage = bool((body.get("stream_options") or {}).get("include_usage"))
        self._names_tokens = scenario.dialect in ("lmdeploy", "vllm") and bool(body.get("return_token_ids"))
        self._limit = body.get("max_tokens") or sys.maxsize
        self._tokens = 0

    def steps(self) -> Iterator[Step | Cut]:
        scenario = self._scenario
        if scenario.dialect != "lmdeploy":
            yield Step(0, self._chunk({"role": "assistant", "content": ""}))
        due_s, dues_s = scenario.first_chunk_s, scenario.dues_s()
        for index, piece in enumerate(scenario.pieces()):
            if self._tokens >= self._limit:
                break
            due_s = next(dues_s)
            if index == scenario.error_after:
                yield from (Step(due_s, event) for event in self._error())
                return
            if index == scenario.cut_after:
                yield Cut(due_s)
            if index == scenario.stall_after:
                yield Step(due_s + 3600, b"")
            if index == scenario.end_after:
                return
            yield Step(due_s, self._text(index, piece), is_marked=True)
        yield from (Step(due_s, event) for event in self._closing())

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
        # All but these count the end-of-sequence token that closes an answer.
        completion = self._tokens + (stopped and self._scenario.dialect not in ("lmdeploy", "generic"))
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
            choice["token_ids" if self._scenario.dialect == "vllm" else "output_ids"] = list(range(tokens))
        if self._scenario.dialect == "llamacpp":
            more["timings"] = {"predicted_n": self._tokens}
        return self._event(orjson.dumps({**self._head(), "choices": [choice], **more}))

    def _head(self) -> dict[str, Any]:
        return {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "script"}

    def _event(self, data: bytes, *, last: bool = False) -> bytes:
        return b"data: " + data + (b"" if last else self._scenario.newline.encode() * 2)


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
    server = timed_http.Server(script.answer)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        yield RunningServer(_url(server), script)
    finally:
        server.stop()
        thread.join(10)


def _url(server: timed_http.Server) -> str:
    return f"http://127.0.0.1:{server.port}/v1"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--port", type=int, default=9000, help="0 takes a free one")
    parser.add_argument("--scenarios", type=json.loads, default={}, help="more of them, as JSON by name")
    options = parser.parse_args()
    more = {name: Scenario(**fields) for name, fields in options.scenarios.items()}
    server = timed_http.Server(Script({**SCENARIOS, **more}).answer, options.port)
    sys.stdout.write(f"{_url(server)}\n")
    sys.stdout.flush()
    gc.freeze()  # looking through all that was imported would make chunks late
    with suppress(KeyboardInterrupt):
        server.run()


if __name__ == "__main__":
    main()
