"""A lane's token ids: from its own tokenizer on this machine, or from its server where that tells them."""

import asyncio
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from core.chat_api.client import Session
from core.domain.quality import TokenizerFacts
from core.domain.specs import Endpoint, LaneSpec, Weights
from core.engines.launch.table import is_local_path, model_path, python_of
from core.errors import EngineError
from core.i18n import N_
from core.quality.run.likelihood_api import encode
from core.quality.run.processes import child_environment, end
from core.quality.run.token_worker import PROBE, PROBE_QUESTION, RESULT, digest
from core.settings import PROJECT_ROOT

log = logging.getLogger(__name__)

_ANSWER_S = 300.0
_LINE_BYTES = 256 * 2**20


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
