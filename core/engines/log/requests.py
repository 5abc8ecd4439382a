"""Sends a request, and tells from a local engine's log why it failed where the engine's answer doesn't.

Servers answer most faults of their own with "Internal Server Error", or close the connection, and write the
reason into their log, often only after they have answered.
"""

import asyncio
from collections.abc import Sequence
from pathlib import Path

from core.chat_api.answer import Answer
from core.chat_api.client import Session, Timeouts, send
from core.domain.conversation import Message, Sampling
from core.domain.specs import Endpoint
from core.engines.log.diagnose import recognise
from core.engines.log.file import read_since
from core.errors import EngineError

SAY_LITTLE = frozenset(
    {
        "bad-stream",
        "empty-answer",
        "endpoint-refused",
        "endpoint-unreachable",
        "engine-crashed",
        "engine-gave-up",
        "first-token-timeout",
        "stall-timeout",
    }
)
"""Codes of failures that the engine's log may explain."""
_WRITTEN_WITHIN_S = 1.0
_POLL_S = 0.1


async def send_explained(
    session: Session,
    endpoint: Endpoint,
    messages: Sequence[Message],
    sampling: Sampling,
    answer: Answer,
    timeouts: Timeouts,
    *,
    body: bytes | None = None,
) -> None:
    """As `core.chat_api.client.send`; the error has the cause that the engine's log names, if it does."""
    log = Path(endpoint.log_file) if endpoint.log_file else None
    size_before = _size_bytes(log) if log else 0
    try:
        await send(session, endpoint, messages, sampling, answer, timeouts, body=body)
    except EngineError as error:
        cause = await _cause(log, size_before) if log and error.code in SAY_LITTLE else None
        if cause is None:
            raise
        raise cause from error


async def _cause(log: Path, size_before: int) -> EngineError | None:
    """Return what the engine wrote since then; it is given a moment to write it."""
    clock = asyncio.get_running_loop().time
    deadline = clock() + _WRITTEN_WITHIN_S
    while True:
        cause = recognise(await asyncio.to_thread(read_since, log, size_before))
        if cause or clock() >= deadline:
            return cause
        await asyncio.sleep(_POLL_S)


def _size_bytes(log: Path) -> int:
    try:
        return log.stat().st_size
    except OSError:
        return 0
