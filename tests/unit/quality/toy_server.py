"""A model small enough to know by heart, behind LMDeploy's or vLLM's endpoints.

Its tokens are characters, and how likely a token is depends on its id alone. Faults can be planted: each one
moves something that a test can foresee.
"""

import math
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import orjson

from core.domain.specs import Dialect, EndpointSpec, EngineKind, LaneSpec
from tests import timed_http
from tests.timed_http import Request, Step, Stream, Whole


@dataclass
class ToyModel:
    """What the server knows and how it errs."""

    answer: Callable[[str], str] = lambda prompt: f"You said: {prompt}"
    template: str = "<user>{}<bot>"
    nats_scale: float = 1.0
    """Of every token's negative log-likelihood: a weight that was scaled."""
    id_shift: int = 0
    """Added to every token id: another tokenizer."""
    endpoints: frozenset[str] = frozenset({"/v1/encode", "/get_ppl", "/tokenize", "/v1/completions"})
    """The optional ones that it offers."""
    status: int = 200
    seen: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    def ids(self, text: str) -> list[int]:
        return [ord(character) + self.id_shift for character in text]

    def nats(self, token: int) -> float:
        return self.nats_scale * (1 + (token % 7) / 10)

    def handle(self, request: Request) -> Whole | Stream:
        if request.path == "/v1/models":
            return _json({"object": "list", "data": [{"id": "toy", "object": "model"}]})
        body = orjson.loads(request.body) if request.body else {}
        self.seen.append((request.path, body))
        if request.path == "/v1/chat/completions":
            return self._chat(body)
        if request.path not in self.endpoints:
            return _json({"detail": "Not Found"}, 404)
        return _json(
            {
                "/v1/encode": self._encode,
                "/get_ppl": self._ppl,
                "/tokenize": self._tokenize,
                "/v1/completions": self._complete,
            }[request.path](body)
        )

    def _chat(self, body: dict[str, Any]) -> Whole | Stream:
        if self.status != 200:
            return _json({"error": {"message": "out of order"}}, self.status)
        prompt = body["messages"][-1]["content"]
        text = self.answer(prompt)
        cut = len(text) > body["max_tokens"]
        text = text[: body["max_tokens"]]
        usage = {
            "prompt_tokens": len(self.ids(self.template.format(prompt))),
            "completion_tokens": len(text),
            "total_tokens": 0,
        }
        chunks = [{"choices": [{"delta": {"content": piece}}]} for piece in (text[:2], text[2:]) if piece]
        chunks.append({"choices": [{"delta": {}, "finish_reason": "length" if cut else "stop"}]})
        chunks.append({"choices": [], "usage": usage})
        steps = [Step(0, _event(orjson.dumps(chunk))) for chunk in chunks]
        return Stream(
            steps=iter([*steps, Step(0, _event(b"[DONE]"))]),
            on_marked=lambda *_: None,
            on_ended=lambda *_: None,
            on_broken_off=lambda: None,
        )

    def _encode(self, body: dict[str, Any]) -> dict[str, Any]:
        texts = body["input"]
        if body["do_preprocess"]:
            texts = [self.template.format(text) for text in texts]
        found = [self.ids(text) for text in texts]
        return {"input_ids": found, "length": [len(ids) for ids in found]}

    def _tokenize(self, body: dict[str, Any]) -> dict[str, Any]:
        text = body["prompt"] if "prompt" in body else self.template.format(body["messages"][0]["content"])
        return {"tokens": self.ids(text)}

    def _ppl(self, body: dict[str, Any]) -> dict[str, Any]:
        scored = body["input"][1:]
        return {"ppl": math.fsum(map(self.nats, scored)) / len(scored)}

    def _complete(self, body: dict[str, Any]) -> dict[str, Any]:
        rows = [
            None,
            *({str(token): {"logprob": -self.nats(token), "rank": 1}} for token in body["prompt"][1:]),
        ]
        return {"choices": [{"text": "", "prompt_logprobs": rows}]}


@contextmanager
def serving(model: ToyModel) -> Iterator[str]:
    """The base URL of the model, until the block ends."""
    server = timed_http.Server(model.handle)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.port}/v1"
    finally:
        server.stop()
        thread.join(10)


def lane(name: str, url: str, dialect: Dialect = Dialect.LMDEPLOY) -> LaneSpec:
    return LaneSpec(
        name=name,
        kind=EngineKind.ENDPOINT,
        endpoint=EndpointSpec(url=url, model="toy", dialect=dialect),
    )


def _json(value: object, status: int = 200) -> Whole:
    return Whole(body=orjson.dumps(value), status=status)


def _event(data: bytes) -> bytes:
    return b"data: " + data + b"\n\n"
