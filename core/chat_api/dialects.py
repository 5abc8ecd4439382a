"""What each kind of server wants to be asked, and what it means by its answer.

`chat_body` writes the request so that the same `Sampling` means the same everywhere; `read_event` reads one
stream event of any dialect, tolerantly; `output_tokens` evens out how usage counts.

| setting | lmdeploy | transformers | generic |
|---|---|---|---|
| greedy | `temperature` 0, `top_k` 1 | `do_sample` false | `temperature` 0 |
| `top_p`, `top_k` | as they are | in a `generation_config` | `top_k` only when asked for |
| `repetition_penalty` | as it is | likewise | only when asked for |
| `seed` | `seed` | `seed` | `seed` |
| fixed length | `ignore_eos`, `min_new_tokens` | `min_new_tokens`, likewise | `ignore_eos`, `min_tokens` |
| usage | asked for with `stream_options` | always sent, counts the closing EOS | asked for |
| `[DONE]` | yes | no | usually |

Images are the same for all: `image_url` parts with data URLs, never a path or an address, which would make
the server read its own disk or network. They come before the text, of which there is always one part, since
LMDeploy's LLaVA refuses a message without and drops any further one. A message without images stays a plain
string: LMDeploy takes an assistant's list of parts for the user's.
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import orjson

from core.chat_api.failures import ServerError, error_of
from core.domain.conversation import Message
from core.domain.sampling import Sampling
from core.domain.specs import Dialect
from core.domain.turns import FinishReason
from core.errors import EngineError

DONE = b"[DONE]"

_USAGE = {"include_usage": True}


class Usage(NamedTuple):
    """Token counts as the server sent them."""

    prompt_tokens: int | None
    completion_tokens: int | None
    cached_tokens: int | None


class StreamEvent(NamedTuple):
    """One event of a chat stream."""

    has_choices: bool = False
    content: str = ""
    reasoning: str = ""
    tokens: int | None = None
    """Output tokens that the event names by their ids; None if it names none."""
    finish_reason: str | None = None
    """In the server's own words."""
    usage: Usage | None = None
    error: ServerError | None = None
    model: str | None = None


def chat_body(
    dialect: Dialect,
    model: str,
    messages: Sequence[Message],
    sampling: Sampling,
    image_urls: Mapping[str, str] = MappingProxyType({}),
) -> dict[str, Any]:
    """The JSON body of POST {url}/chat/completions; `image_urls` has the images' data URLs by hash."""
    body: dict[str, Any] = {
        "model": model,
        "messages": [
            {"role": message.role, "content": _content(message, image_urls)} for message in messages
        ],
        "stream": True,
        "max_tokens": sampling.max_tokens,
    }
    if sampling.seed is not None and not sampling.greedy:
        body["seed"] = sampling.seed
    return body | _FIELDS[dialect](sampling)


def notes(dialect: Dialect, sampling: Sampling) -> tuple[str, ...]:
    """What a reader of the numbers must know about this translation."""
    if dialect is not Dialect.GENERIC:
        return ()
    extra = [name for name in _generic(sampling) if name in _NOT_IN_OPENAI]
    if not extra:
        return ()
    return (f"{', '.join(extra)}: not part of the OpenAI API, the server may ignore it",)


def read_event(data: bytes) -> StreamEvent:
    """One event's data, other than `[DONE]`. Raises EngineError if it is no chat event."""
    try:
        return _read(orjson.loads(data))
    except orjson.JSONDecodeError as exc:
        return _unescaped_error(data, exc)
    except (AttributeError, LookupError, TypeError) as exc:
        raise _bad_stream("has another shape than a chat completion chunk") from exc


def output_tokens(dialect: Dialect, completion_tokens: int, finish_reason: FinishReason | None) -> int:
    """Generated tokens without the closing end-of-sequence token, which only transformers counts."""
    if dialect is Dialect.TRANSFORMERS and finish_reason is FinishReason.STOP:
        return max(completion_tokens - 1, 0)
    return completion_tokens


def finish_reason(word: str) -> FinishReason:
    """The server's word for why the answer ended; an unknown word is a stop of the server's own making."""
    return _FINISH_REASONS.get(word, FinishReason.STOP)


def is_plain_finish(word: str) -> bool:
    """Whether the word says no more than its FinishReason."""
    return word in _FINISH_REASONS


def _content(message: Message, image_urls: Mapping[str, str]) -> str | list[dict[str, Any]]:
    if not message.images:
        return message.content
    shown = [
        {"type": "image_url", "image_url": {"url": image_urls[image.sha256]}} for image in message.images
    ]
    return [*shown, {"type": "text", "text": message.content}]


_FINISH_REASONS = {
    "stop": FinishReason.STOP,
    "eos": FinishReason.STOP,
    "eos_token": FinishReason.STOP,
    "stop_sequence": FinishReason.STOP,
    "length": FinishReason.LENGTH,
    "max_tokens": FinishReason.LENGTH,
    "abort": FinishReason.ERROR,
    "error": FinishReason.ERROR,
}


def _lmdeploy(sampling: Sampling) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "stream_options": _USAGE,
        "return_token_ids": True,
        "temperature": sampling.temperature,
        # TurboMind divides by a small number instead of taking temperature 0 for greedy; top_k 1 is.
        "top_p": 1.0 if sampling.greedy else sampling.top_p,
        "top_k": 1 if sampling.greedy else sampling.top_k,
        "repetition_penalty": sampling.repetition_penalty,
    }
    if sampling.fixed_length:
        # With `ignore_eos` alone TurboMind may write end tokens in mid-answer, unlike transformers and
        # LMDeploy's PyTorch engine; `min_new_tokens` keeps them out there too.
        fields |= {"ignore_eos": True, "min_new_tokens": sampling.max_tokens}
    return fields


def _transformers(sampling: Sampling) -> dict[str, Any]:
    # Anything but OpenAI's own fields gets 422, and `temperature` alone does not turn sampling on, so the
    # settings travel as a GenerationConfig; fields it leaves out come from the model's own one.
    config: dict[str, Any] = {
        "do_sample": not sampling.greedy,
        "max_new_tokens": sampling.max_tokens,
        "repetition_penalty": sampling.repetition_penalty,
    }
    if not sampling.greedy:
        config |= {
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "top_k": sampling.top_k,
        }
    if sampling.fixed_length:
        config["min_new_tokens"] = sampling.max_tokens
    return {"generation_config": orjson.dumps(config).decode()}


def _generic(sampling: Sampling) -> dict[str, Any]:
    fields: dict[str, Any] = {"stream_options": _USAGE, "temperature": sampling.temperature}
    if not sampling.greedy:
        fields["top_p"] = sampling.top_p
        if sampling.top_k:
            fields["top_k"] = sampling.top_k
    if sampling.repetition_penalty != 1:
        fields["repetition_penalty"] = sampling.repetition_penalty
    if sampling.fixed_length:
        # The names that vLLM and SGLang know.
        fields |= {"ignore_eos": True, "min_tokens": sampling.max_tokens}
    return fields


_NOT_IN_OPENAI = {"top_k", "repetition_penalty", "ignore_eos", "min_tokens"}

_FIELDS = {
    Dialect.LMDEPLOY: _lmdeploy,
    Dialect.TRANSFORMERS: _transformers,
    Dialect.GENERIC: _generic,
}


def _read(event: dict[str, Any]) -> StreamEvent:
    choices = event.get("choices")
    usage = event.get("usage")
    if not choices:
        return StreamEvent(
            usage=_usage(usage) if usage else None, error=error_of(event), model=event.get("model")
        )
    choice = choices[0]
    delta = choice.get("delta") or {}
    content = delta.get("content") or ""
    reasoning = delta.get("reasoning_content") or delta.get("reasoning") or ""
    if not (isinstance(content, str) and isinstance(reasoning, str)):
        raise TypeError("text expected")
    token_ids = choice.get("output_ids")
    return StreamEvent(
        True,
        content,
        reasoning,
        None if token_ids is None else len(token_ids),
        choice.get("finish_reason"),
        _usage(usage) if usage else None,
        error_of(event) if "error" in event else None,
        event.get("model"),
    )


def _usage(usage: dict[str, Any]) -> Usage:
    details = usage.get("prompt_tokens_details") or {}
    return Usage(usage.get("prompt_tokens"), usage.get("completion_tokens"), details.get("cached_tokens"))


def _unescaped_error(data: bytes, exc: orjson.JSONDecodeError) -> StreamEvent:
    """`transformers serve` puts an error's text into JSON without escaping it (`_StreamError`)."""
    prefix, suffix = b'{"error": "', b'"}'
    if data.startswith(prefix) and data.endswith(suffix):
        text = data[len(prefix) : -len(suffix)].decode("utf-8", "replace")
        return StreamEvent(error=ServerError(text, None))
    raise _bad_stream("is not JSON") from exc


def _bad_stream(what: str) -> EngineError:
    return EngineError(
        f"A stream event of the endpoint {what}",
        hint="Is this an OpenAI-compatible chat endpoint?",
        code="bad-stream",
    )
