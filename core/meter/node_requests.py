"""Requests to engines on nodes: their end explained by what the node, or its silence, says.

A machine that loses power closes no connection, and an engine's log on a node can't be read here. So while a
request runs, its lane is looked at as well.
"""

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

from core.domain.specs import Endpoint
from core.engines.log.requests import SAY_LITTLE
from core.errors import EngineError

_LOOK_S = 1.0
_TOLD_WITHIN_S = 6.0
"""Within this time a node's agent tells why an engine died, or the node counts as dead."""


async def send_to_node(
    sending: Coroutine[Any, Any, None],
    resolve: Callable[[], Endpoint | None],
    text_chars: Callable[[], int],
) -> None:
    """Run a request to its end, or until its node is dead and nothing more comes.

    Args:
        sending: the request.
        resolve: finds the lane's endpoint, or raises what is wrong with it; reads files.
        text_chars: how much of the answer there is.

    Raises:
        EngineError: what is wrong with the node or the engine there, else the request's own error.
    """
    task = asyncio.ensure_future(sending)
    try:
        before = -1
        while not (await asyncio.wait({task}, timeout=_LOOK_S))[0]:
            problem = await _problem(resolve)
            so_far = text_chars()
            # Its agent may be gone while the engine still answers.
            if problem is not None and problem.code.startswith("node-") and so_far == before:
                raise problem
            before = so_far
        await task
    except EngineError as error:
        cause = await _cause(resolve) if task.done() and error.code in SAY_LITTLE else None
        if cause is None:
            raise
        raise cause from error
    finally:
        if not task.done():
            task.cancel()
            with suppress(asyncio.CancelledError, EngineError):
                await task


async def _cause(resolve: Callable[[], Endpoint | None]) -> EngineError | None:
    clock = asyncio.get_running_loop().time
    deadline = clock() + _TOLD_WITHIN_S
    while (problem := await _problem(resolve)) is None or problem.code.startswith("cluster-"):
        if clock() >= deadline:
            return None
        await asyncio.sleep(_LOOK_S / 2)
    return problem


async def _problem(resolve: Callable[[], Endpoint | None]) -> EngineError | None:
    try:
        await asyncio.to_thread(resolve)
    except EngineError as error:
        return error
    return None
