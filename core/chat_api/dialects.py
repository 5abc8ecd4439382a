"""Dialects: the requests that each kind of server takes, and the meaning of its answers.

`chat_body` writes the request so that the same `Sampling` means the same everywhere; `output_tokens` evens
out how usage counts. `core.chat_api.stream` reads the answer.

| setting | lmdeploy | transformers | vllm, sglang | llamacpp | generic |
|---|---|---|---|---|---|
| greedy | `top_k` 1 | `do_sample` false | `temperature` 0 | `temperature` 0 | `temperature` 0 |
| all tokens | `top_k` 0 | `top_k` 0 | `top_k` -1 | `top_k` 0 | not said |
| `min_p` | off | off | 0 | 0 | not said |
| repetition | `repetition_penalty` | likewise | likewise | `repeat_penalty` | only when asked for |
| fixed length | `min_new_tokens` | `min_new_tokens` | `min_tokens` | `ignore_eos` | `min_tokens` |
| tokens of a chunk | `output_ids` | – | vllm: `token_ids` | `timings` | – |
| usage | asked for | always sent | asked for | asked for | asked for |
| EOS in usage | no | yes | yes | yes | taken for no, unless the lane's tokenizer says otherwise |
| `[DONE]` | yes | no | yes | yes | usually |

transformers takes sampling in a `generation_config`; `ignore_eos` goes with every fixed length where it
exists.

Images are the same for all: `image_url` parts with data URLs, never a path or an address, which would make
the server read its own disk or network. They come before the text, of which there is always one part, since
LMDeploy's LLaVA refuses a message without and drops any further one. A message without images stays a plain
string: LMDeploy takes an assistant's list of parts for the user's.
"""

import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import orjson

from core.chat_api.lenient import json_document, well_formed
from core.domain.conversation import Message, Sampling
from core.domain.specs import Dialect, RequestOptions
from core.domain.turns import FinishReason
from core.i18n import N_, Text

NO_OPTIONS = RequestOptions()
_USAGE = {"include_usage": True}


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


def customised(body: dict[str, Any], options: RequestOptions) -> dict[str, Any]:
    """The body with what one server wants differently."""
    if options.max_tokens_name != "max_tokens":
        body[options.max_tokens_name] = body.pop("max_tokens")
    for name in options.leave_out:
        body.pop(name, None)
    extra = json_document(options.extra_body.encode()) if options.extra_body else None
    return body | extra if isinstance(extra, dict) else body


def notes(dialect: Dialect, sampling: Sampling, options: RequestOptions = NO_OPTIONS) -> tuple[Text, ...]:
    """Return what a reader of the numbers must know about this translation."""
    texts: list[Text] = []
    if options.leave_out:
        texts.append(
            N_("Not sent because of the lane's settings: {fields}.", fields=", ".join(options.leave_out))
        )
    if options.extra_body:
        texts.append(N_("Also sent because of the lane's settings: {fields}.", fields=options.extra_body))
    if dialect is not Dialect.GENERIC:
        return tuple(texts)
    extra = [name for name in _generic(sampling) if name in _NOT_IN_OPENAI and name not in options.leave_out]
    if extra:
        texts.append(
            N_("{fields}: not part of the OpenAI API, so the server may ignore it.", fields=", ".join(extra))
        )
    if not sampling.greedy and not sampling.top_k:
        texts.append(
            N_(
                "The server may apply a top_k, min_p, or repetition penalty of its own. Naming its "
                "dialect avoids this."
            )
        )
    return tuple(texts)


def output_tokens(dialect: Dialect, completion_tokens: int, finish_reason: FinishReason | None) -> int:
    """Generated tokens without the closing end-of-sequence token, which some servers count."""
    if dialect in _COUNTS_EOS and finish_reason in (FinishReason.STOP, FinishReason.TOOL_CALLS):
        return max(completion_tokens - 1, 0)
    return completion_tokens


def finish_reason(word: str) -> FinishReason:
    """The server's word for why the answer ended; an unknown word is a stop of the server's own making."""
    word = word.strip().lower()
    if reason := _FINISH_REASONS.get(word):
        return reason
    return FinishReason.ERROR if _FAILED.search(word) else FinishReason.STOP


def is_plain_finish(word: str) -> bool:
    """Whether the word says no more than its FinishReason."""
    return word.strip().lower() in _FINISH_REASONS


def _content(message: Message, image_urls: Mapping[str, str]) -> str | list[dict[str, Any]]:
    text = well_formed(message.content)
    if not message.images:
        return text
    shown = [
        {"type": "image_url", "image_url": {"url": image_urls[image.sha256]}} for image in message.images
    ]
    return [*shown, {"type": "text", "text": text}]


_FINISH_REASONS = {
    "stop": FinishReason.STOP,
    "eos": FinishReason.STOP,
    "eos_token": FinishReason.STOP,
    "stop_sequence": FinishReason.STOP,
    "end_turn": FinishReason.STOP,
    "length": FinishReason.LENGTH,
    "max_tokens": FinishReason.LENGTH,
    "model_length": FinishReason.LENGTH,
    "tool_calls": FinishReason.TOOL_CALLS,
    "tool_use": FinishReason.TOOL_CALLS,
    "function_call": FinishReason.TOOL_CALLS,
    "content_filter": FinishReason.CONTENT_FILTER,
}
_FAILED = re.compile(
    r"error|fail|abort|cancel|timeout|timed.out|exception|overload|insufficient|crash|\boom\b|interrupt"
)
"""In words for ends that are none: `abort` (vLLM), `insufficient_system_resource` (DeepSeek),
`network_error`."""


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


def _vllm(sampling: Sampling) -> dict[str, Any]:
    return _sglang(sampling) | {"return_token_ids": True}


def _sglang(sampling: Sampling) -> dict[str, Any]:
    # All are named, since both take what is missing from the checkpoint's generation_config.json.
    fields: dict[str, Any] = {
        "stream_options": _USAGE,
        "temperature": sampling.temperature,
        "top_p": 1.0 if sampling.greedy else sampling.top_p,
        "top_k": -1 if sampling.greedy else sampling.top_k or -1,
        "min_p": 0,
        "repetition_penalty": sampling.repetition_penalty,
    }
    if sampling.fixed_length:
        fields |= {"ignore_eos": True, "min_tokens": sampling.max_tokens}
    return fields


def _llamacpp(sampling: Sampling) -> dict[str, Any]:
    # All are named, since its own defaults are top_k 40, top_p 0.95 and min_p 0.05.
    fields: dict[str, Any] = {
        "stream_options": _USAGE,
        "timings_per_token": True,
        "temperature": sampling.temperature,
        "top_p": 1.0 if sampling.greedy else sampling.top_p,
        "top_k": 0 if sampling.greedy else sampling.top_k,
        "min_p": 0,
        "repeat_penalty": sampling.repetition_penalty,
    }
    if sampling.fixed_length:
        fields["ignore_eos"] = True
    return fields


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


_COUNTS_EOS = frozenset({Dialect.TRANSFORMERS, Dialect.VLLM, Dialect.SGLANG, Dialect.LLAMACPP})
_NOT_IN_OPENAI = {"top_k", "repetition_penalty", "ignore_eos", "min_tokens"}

_FIELDS = {
    Dialect.LMDEPLOY: _lmdeploy,
    Dialect.TRANSFORMERS: _transformers,
    Dialect.VLLM: _vllm,
    Dialect.SGLANG: _sglang,
    Dialect.LLAMACPP: _llamacpp,
    Dialect.GENERIC: _generic,
}
