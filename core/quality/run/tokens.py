"""A lane's token ids and their likelihood: from its own tokenizer here, or from its server. All in nats.

LMDeploy's and vLLM's servers have endpoints for that:

| | LMDeploy | vLLM and servers like it |
|---|---|---|
| text → ids | `POST /v1/encode` | `POST /tokenize` |
| likelihood of ids | `POST /get_ppl`: mean cross-entropy | `prompt_logprobs` of `POST /v1/completions` |

What asks them raises EngineError: `no-such-endpoint` where the server lacks the endpoint, else what it said.
"""

import asyncio
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from core.chat_api.client import MISSING, Session, post_json
from core.domain.runs import TokenizerFacts
from core.domain.specs import Dialect, Endpoint, LaneSpec, Weights
from core.engines.launch.table import is_local_path, model_path, python_of
from core.errors import EngineError
from core.i18n import N_
from core.quality.run.child_process import child_environment, end
from core.quality.run.token_worker import PROBE, PROBE_QUESTION, RESULT, digest
from core.settings import PROJECT_ROOT

log = logging.getLogger(__name__)

_ANSWER_S = 300.0
_LINE_BYTES = 256 * 2**20
_TIMEOUT_S = 300.0


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenIds:
    """Ids of texts, and of prompts in the chat template."""

    texts: tuple[tuple[int, ...], ...]
    prompts: tuple[tuple[int, ...], ...]
    facts: TokenizerFacts


class TokenSource(Protocol):
    """Both methods raise EngineError where there are no ids to be had."""

    async def read(self, texts: Sequence[str], prompts: Sequence[str] = ()) -> TokenIds: ...
    async def close(self) -> None: ...


class OwnTokenizer:
    """The tokenizer in the lane's checkpoint or GGUF file, in a process that stays until `close`."""

    def __init__(self, lane: LaneSpec) -> None:
        path = Path(model_path(lane))
        is_file = lane.weights is Weights.GGUF
        self._request: dict[str, Any] = {
            "path": str(path.parent) if is_file else model_path(lane),
            "gguf_file": path.name if is_file else None,
            "trust_remote_code": lane.settings.trust_remote_code,
        }
        self._python = python_of(lane)
        self._offline = is_local_path(model_path(lane))
        self._process: asyncio.subprocess.Process | None = None

    async def read(self, texts: Sequence[str], prompts: Sequence[str] = ()) -> TokenIds:
        process = await self._started()
        assert process.stdin is not None
        request = {**self._request, "texts": list(texts), "prompts": list(prompts)}
        try:
            async with asyncio.timeout(_ANSWER_S):
                process.stdin.write(json.dumps(request).encode() + b"\n")
                await process.stdin.drain()
                answer = await self._answer(process)
        except (OSError, TimeoutError) as exc:
            raise _no_ids(f"{type(exc).__name__}") from exc
        if "error" in answer:
            raise _no_ids(answer["error"])
        return TokenIds(
            texts=tuple(map(tuple, answer["texts"])),
            prompts=tuple(map(tuple, answer["prompts"])),
            facts=TokenizerFacts(
                probe_sha256=answer["probe_sha256"],
                vocab_sha256=answer["vocab_sha256"],
                template_sha256=answer["template_sha256"],
            ),
        )

    async def close(self) -> None:
        if self._process is not None:
            await end(self._process)
            self._process = None

    async def _started(self) -> asyncio.subprocess.Process:
        if self._process is None:
            try:
                self._process = await asyncio.create_subprocess_exec(
                    *(self._python, "-m", "core.quality.run.token_worker"),
                    cwd=PROJECT_ROOT,
                    env=child_environment("", offline=self._offline),
                    stdin=asyncio.subprocess.PIPE,
                    stdout=asyncio.subprocess.PIPE,
                    limit=_LINE_BYTES,
                )
            except OSError as exc:
                raise _no_ids(f"{self._python}: {exc.strerror}") from exc
        return self._process

    async def _answer(self, process: asyncio.subprocess.Process) -> dict[str, Any]:
        assert process.stdout is not None
        while line := await process.stdout.readline():
            text = line.decode("utf-8", "replace")
            if text.startswith(RESULT):
                answer: dict[str, Any] = json.loads(text.removeprefix(RESULT))
                return answer
            log.info("tokenizer process: %s", text.rstrip())
        raise _no_ids("its process ended")


class ServedTokenizer:
    """The tokenizer behind a server that tells token ids."""

    def __init__(self, session: Session, endpoint: Endpoint) -> None:
        self._session = session
        self._endpoint = endpoint

    async def read(self, texts: Sequence[str], prompts: Sequence[str] = ()) -> TokenIds:
        plain = await encode(self._session, self._endpoint, [PROBE, *texts])
        chats = await encode(self._session, self._endpoint, [PROBE_QUESTION, *prompts], in_template=True)
        return TokenIds(
            texts=tuple(map(tuple, plain[1:])),
            prompts=tuple(map(tuple, chats[1:])),
            facts=TokenizerFacts(probe_sha256=digest(plain[0]), template_sha256=digest(chats[0])),
        )

    async def close(self) -> None: ...


def _no_ids(reason: str) -> EngineError:
    return EngineError(
        N_("The lane's token IDs are unknown: {reason}", reason=reason),
        hint=N_("Texts are compared by token IDs. Without them, only answers are compared."),
        code="no-token-ids",
    )


async def encode(
    session: Session,
    endpoint: Endpoint,
    texts: Sequence[str],
    *,
    in_template: bool = False,
) -> tuple[tuple[int, ...], ...]:
    """The token ids of each text, without special tokens; `in_template` as a prompt in the chat template."""
    if endpoint.dialect is Dialect.LMDEPLOY:
        body = {"input": list(texts), "do_preprocess": in_template, "add_bos": False}
        answer = await _post(session, endpoint, f"{_root(endpoint)}/v1/encode", body)
        return _ids(answer, "input_ids")
    answers = []
    for text in texts:
        asked: dict[str, Any] = (
            {"messages": [{"role": "user", "content": text}], "add_generation_prompt": True}
            if in_template
            else {"prompt": text, "add_special_tokens": False}
        )
        answer = await _post(
            session, endpoint, f"{_root(endpoint)}/tokenize", {"model": endpoint.model, **asked}
        )
        answers.append(answer)
    return tuple(_ids({"ids": [encoded.get("tokens") for encoded in answers]}, "ids"))


async def nll_nats(session: Session, endpoint: Endpoint, ids: Sequence[int], context_tokens: int) -> float:
    """The negative log-likelihood of `ids` after their first `context_tokens`, by LMDeploy's `/get_ppl`."""
    whole = await _mean_nats(session, endpoint, ids) * (len(ids) - 1)
    if context_tokens < 2:
        return whole
    return whole - await _mean_nats(session, endpoint, ids[:context_tokens]) * (context_tokens - 1)


async def prompt_logprobs(
    session: Session, endpoint: Endpoint, ids: Sequence[int], context_tokens: int
) -> tuple[float, ...]:
    """The log-probability of each of `ids` after the first `context_tokens` of them, as vLLM reports it."""
    body = {
        "model": endpoint.model,
        "prompt": list(ids),
        "max_tokens": 1,
        "temperature": 0,
        "prompt_logprobs": 1,
    }
    answer = await _post(session, endpoint, f"{endpoint.url}/completions", body)
    try:
        rows = answer["choices"][0].get("prompt_logprobs") or answer["prompt_logprobs"]
        logprobs = tuple(
            float(row[str(token)]["logprob"]) for row, token in zip(rows[1:], ids[1:], strict=True)
        )
    except (LookupError, TypeError, ValueError) as exc:
        raise _missing("prompt_logprobs") from exc
    return logprobs[context_tokens - 1 :]


async def _mean_nats(session: Session, endpoint: Endpoint, ids: Sequence[int]) -> float:
    answer = await _post(session, endpoint, f"{_root(endpoint)}/get_ppl", {"input": list(ids)})
    try:
        return float(answer["ppl"])
    except (LookupError, TypeError, ValueError) as exc:
        raise _missing("/get_ppl") from exc


async def _post(session: Session, endpoint: Endpoint, url: str, body: dict[str, Any]) -> dict[str, Any]:
    status, answer = await post_json(session, endpoint, url, body, timeout_s=_TIMEOUT_S)
    if status in MISSING or not isinstance(answer, dict):
        raise _missing(url.removeprefix(_root(endpoint)))
    return answer


def _ids(answer: dict[str, Any], key: str) -> tuple[tuple[int, ...], ...]:
    try:
        return tuple(tuple(map(int, ids)) for ids in answer[key])
    except (LookupError, TypeError, ValueError) as exc:
        raise _missing("token ids") from exc


def _root(endpoint: Endpoint) -> str:
    return endpoint.url.rstrip("/").removesuffix("/v1")


def _missing(feature: str) -> EngineError:
    return EngineError(
        N_("The server doesn't offer {what}.", what=feature),
        hint=N_("The likelihood of texts can be compared with LMDeploy, vLLM, and local engines."),
        code="no-such-endpoint",
    )
