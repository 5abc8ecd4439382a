"""Before a measured request is sent: nothing may still compute for one that was stopped."""

import asyncio
from collections.abc import Callable

from core.domain.specs import Endpoint
from core.engines.unfinished import StoppedRequests, Unfinished
from core.i18n import N_, Text

_POLL_S = 0.2


async def settled(
    stopped: StoppedRequests, endpoint: Endpoint, patience_s: float, on_wait: Callable[[Unfinished], None]
) -> tuple[Text, ...]:
    """Wait for what still computes, up to `patience_s`; returns what must be known about the next request.

    `on_wait` is called at each look while it waits, and must return at once.
    """
    clock = asyncio.get_running_loop().time
    deadline = clock() + patience_s
    while (found := await asyncio.to_thread(stopped.before, endpoint)).must_wait:
        if clock() >= deadline:
            if found.server_is_busy:
                return (N_("The server was busy when this was sent, so the figures may include waiting."),)
            return (
                N_(
                    "{lanes} was still finishing a stopped request when this was sent, so the figures may "
                    "include waiting.",
                    lanes=", ".join(found.lanes),
                ),
            )
        on_wait(found)
        await asyncio.sleep(_POLL_S)
    if found.server_is_silent:
        return (
            N_(
                "A request to this server was stopped shortly before. The server doesn't say whether it "
                "still works on it, so the figures may include waiting."
            ),
        )
    return ()
