"""The token ids of the run's texts, and their likelihood by one lane. All in nats.

Ids come from the lane's own tokenizer here, or from its server; the likelihood over HTTP where the server
tells it, else by forward passes. Every lane scores the same token ids, those of the reference's tokenizer. A
lane whose tokenizer or chat template is another one is not scored: the same ids would be another text to it.

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
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from core.chat_api.client import MISSING, Session, post_json
from core.domain.fairness import LMDEPLOY_KINDS
from core.domain.runs import ScoringMethod, SequenceScore, TextScore, TokenizerFacts
from core.domain.specs import Dialect, Endpoint, EngineKind, LaneSpec, Weights
from core.domain.turns import ErrorInfo
from core.engines.launch.table import is_local_path, model_path, python_of
from core.errors import EngineError, EngineOutOfMemory, LMDynoError
from core.i18n import N_
from core.quality.engine_child import PROBE, PROBE_QUESTION, PROGRESS, RESULT, child_environment, digest, end
from core.settings import PROJECT_ROOT

log = logging.getLogger(__name__)

_ANSWER_S = 300.0
_LINE_BYTES = 256 * 2**20
_TIMEOUT_S = 300.0

Progress = Callable[[float], None]
_PROGRESS_LINE_BYTES = 2**20


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
                    *(self._python, "-m", "core.quality.engine_child"),
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


@dataclass(frozen=True, slots=True)
class Scored:
    """Token ids, of which the first `context_tokens` are context and not scored."""

    ids: tuple[int, ...]
    context_tokens: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class TextIds:
    """A text of the plan as every lane scores it."""

    name: str
    sequences: tuple[Scored, ...]

    @property
    def sha256(self) -> str:
        return digest([(sequence.ids, sequence.context_tokens) for sequence in self.sequences])


def other_tokenizer(reference: TokenizerFacts, lane: TokenizerFacts) -> LMDynoError | None:
    """Return why the lane can't score the reference's token ids; None if it can."""
    for one, other in (
        (reference.vocab_sha256, lane.vocab_sha256),
        (reference.probe_sha256, lane.probe_sha256),
    ):
        if one is not None and other is not None and one != other:
            return EngineError(
                N_("Its tokenizer differs from the reference lane's"),
                hint=N_("Perplexities compare only lanes with the same tokenizer."),
                code="tokenizer-differs",
            )
    if reference.probe_sha256 is None or lane.probe_sha256 is None:
        return EngineError(
            N_("Its tokenizer is unknown"),
            hint=N_("The server doesn't return token IDs."),
            code="no-token-ids",
        )
    return None


def unknown(texts: Sequence[TextIds], error: LMDynoError) -> tuple[TextScore, ...]:
    """No likelihood of any text, for this reason."""
    return tuple(TextScore(text=text.name, sha256=text.sha256, error=ErrorInfo.of(error)) for text in texts)


def is_served(lane: LaneSpec, endpoint: Endpoint) -> bool:
    """Whether the lane's server may tell likelihoods over HTTP."""
    return lane.kind in LMDEPLOY_KINDS or (not lane.is_local and endpoint.dialect is not Dialect.TRANSFORMERS)


async def over_http(
    session: Session, endpoint: Endpoint, texts: Sequence[TextIds], on_progress: Progress
) -> tuple[TextScore, ...]:
    """Ask the lane's server, one sequence after another. A failure is the text's error, never raised."""
    is_lmdeploy = endpoint.dialect is Dialect.LMDEPLOY
    method = ScoringMethod.GET_PPL if is_lmdeploy else ScoringMethod.PROMPT_LOGPROBS
    total = sum(len(text.sequences) for text in texts) or 1
    done = 0
    scores: list[TextScore] = []
    for text in texts:
        scored: list[SequenceScore] = []
        try:
            for sequence in text.sequences:
                if is_lmdeploy:
                    nats = await nll_nats(session, endpoint, sequence.ids, sequence.context_tokens)
                else:
                    nats = -sum(
                        await prompt_logprobs(session, endpoint, sequence.ids, sequence.context_tokens)
                    )
                scored.append(
                    SequenceScore(tokens=len(sequence.ids) - sequence.context_tokens, nll_nats=nats)
                )
                done += 1
                on_progress(done / total)
        except LMDynoError as error:
            scores.append(TextScore(text=text.name, sha256=text.sha256, error=ErrorInfo.of(error)))
            continue
        scores.append(TextScore(text=text.name, sha256=text.sha256, method=method, sequences=tuple(scored)))
    return tuple(scores)


async def by_forward_pass(
    lane: LaneSpec,
    device: str,
    texts: Sequence[TextIds],
    on_progress: Progress,
    *,
    write_reference: Path | None = None,
    read_reference: Path | None = None,
) -> tuple[TextScore, ...]:
    """Load the lane's weights once more in a child process and score there; it is gone when this returns.

    Raises EngineOutOfMemory where they don't fit, and EngineError (`scoring-failed`).
    """
    request = {
        **engine_request(lane, device, longest=max(len(s.ids) for text in texts for s in text.sequences)),
        "texts": [[[list(s.ids), s.context_tokens] for s in text.sequences] for text in texts],
        "write_reference": str(write_reference) if write_reference else None,
        "read_reference": str(read_reference) if read_reference and read_reference.exists() else None,
    }
    answer = await _run(
        python_of(lane), device, request, on_progress, offline=is_local_path(model_path(lane))
    )
    return tuple(
        TextScore(
            text=text.name,
            sha256=text.sha256,
            method=ScoringMethod.FORWARD_PASS,
            sequences=tuple(SequenceScore(**scored) for scored in scores),
        )
        for text, scores in zip(texts, answer["texts"], strict=True)
    )


def engine_request(lane: LaneSpec, device: str, *, longest: int) -> dict[str, Any]:
    """Return what the scoring process loads: the lane's weights, with the settings of its engine."""
    settings = lane.settings
    path = model_path(lane)
    common = {"trust_remote_code": settings.trust_remote_code, "device": device, "dtype": settings.dtype}
    if lane.kind is EngineKind.TRANSFORMERS:
        if lane.weights is Weights.GGUF:
            file = Path(path)
            return {**common, "engine": "transformers", "path": str(file.parent), "gguf_file": file.name}
        return {**common, "engine": "transformers", "path": path}
    is_pytorch = lane.kind is EngineKind.PYTORCH
    config: dict[str, Any] = {
        "dtype": settings.dtype,
        "session_len": max(settings.session_len, longest + 1),
        "max_batch_size": settings.max_batch_size,
        "cache_max_entry_count": settings.cache_max_entry_count,
        "quant_policy": settings.quant_policy,
        "tp": settings.tp,
    }
    if lane.kind is EngineKind.AWQ:
        config["model_format"] = "awq"
    engine = "lmdeploy-pytorch" if is_pytorch else "lmdeploy-turbomind"
    return {**common, "engine": engine, "path": path, "engine_config": config}


async def _run(
    python: str, device: str, request: dict[str, Any], on_progress: Progress, *, offline: bool
) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="lmdyno-scoring-") as folder:
        request_file, result_file = Path(folder, "request.json"), Path(folder, "result.json")
        request_file.write_text(json.dumps(request))
        try:
            process = await asyncio.create_subprocess_exec(
                *(python, "-m", "core.quality.engine_child", str(request_file), str(result_file)),
                cwd=PROJECT_ROOT,
                env=child_environment("" if device == "cpu" else device, offline=offline),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                limit=_PROGRESS_LINE_BYTES,
            )
        except OSError as exc:
            raise _failed(f"{python}: {exc.strerror}") from exc
        try:
            await _follow(process, on_progress)
        finally:
            await end(process)
        try:
            answer: dict[str, Any] = json.loads(result_file.read_bytes())
        except (OSError, ValueError) as exc:
            raise _failed(N_("its process ended with exit code {code}", code=process.returncode)) from exc
    if answer.get("error") == "out-of-memory":
        raise EngineOutOfMemory(
            N_("The weights don't fit into the memory left by other programs."),
            hint=N_("Stop other engines and run the comparison again."),
            code="scoring-out-of-memory",
        )
    if "error" in answer:
        raise _failed(answer["reason"])
    return answer


async def _follow(process: asyncio.subprocess.Process, on_progress: Progress) -> None:
    assert process.stdout is not None
    while line := await process.stdout.readline():
        text = line.decode("utf-8", "replace").rstrip()
        if text.startswith(PROGRESS):
            on_progress(float(text.removeprefix(PROGRESS)))
        elif text:
            log.info("scoring process: %s", text)
    await process.wait()


def _failed(reason: str) -> EngineError:
    return EngineError(
        N_("Can't score the texts: {reason}", reason=reason),
        hint=N_("See the job's log for details."),
        code="scoring-failed",
    )
