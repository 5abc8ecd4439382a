"""The likelihood of the run's texts by one lane: over HTTP where its server tells it, else by forward passes.

Every lane scores the same token ids, those of the reference's tokenizer. A lane whose tokenizer or chat
template is another one is not scored: the same ids would be another text to it.
"""

import asyncio
import json
import logging
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.chat_api.client import Session
from core.domain.fairness import LMDEPLOY_KINDS
from core.domain.runs import ScoringMethod, SequenceScore, TextScore, TokenizerFacts
from core.domain.specs import Dialect, Endpoint, EngineKind, LaneSpec, Weights
from core.domain.turns import ErrorInfo
from core.engines.launch.table import is_local_path, model_path, python_of
from core.errors import EngineError, EngineOutOfMemory, LMDynoError
from core.i18n import N_
from core.quality.run.child_process import child_environment, end
from core.quality.run.score_worker import PROGRESS
from core.quality.run.token_worker import digest
from core.quality.run.tokens import nll_nats, prompt_logprobs
from core.settings import PROJECT_ROOT

log = logging.getLogger(__name__)

Progress = Callable[[float], None]
_LINE_BYTES = 2**20


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
                *(python, "-m", "core.quality.run.score_worker", str(request_file), str(result_file)),
                cwd=PROJECT_ROOT,
                env=child_environment("" if device == "cpu" else device, offline=offline),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                limit=_LINE_BYTES,
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
