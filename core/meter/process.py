"""The meter's process: from its owner's first line to its end.

It listens on a Unix socket in a folder that only its owner can enter, and asks for the token that the owner
handed over. When the owner closes it, what still runs is cancelled and recorded; when the owner dies, which
ends the standard input, running turns are finished and recorded first.
"""

import asyncio
import contextlib
import gc
import os
import socket
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AbstractContextManager, asynccontextmanager
from pathlib import Path

from core.chat_api.client import open_session
from core.codec import decode
from core.domain.conversation import StoredImage
from core.domain.specs import Endpoint, LaneSpec
from core.domain.turns import Machine
from core.engines.unfinished import StoppedRequests
from core.meter.devices import DeviceQueue
from core.meter.host import Meter
from core.meter.presence import present
from core.meter.protocol import Hello
from core.meter.recorder import Recorder, RunStore
from core.meter.turns import Surroundings
from core.meter.usage import SampledUsage

_ORPHAN_S = 900.0
"""How long turns may still run after the owner died."""
_LINE_BYTES = 2**26
_SWITCH_INTERVAL_S = 0.0005
"""Python's own 5 ms would let the writer thread delay a timestamp by as much."""
_PRECEDENCE = -5
"""Added to the niceness: a timestamp must not wait until a browser on the same machine has drawn."""


def read_hello() -> Hello:
    """The owner's first line; the standard input must stay open after it."""
    return decode(Hello, sys.stdin.buffer.readline())


def run(
    hello: Hello,
    *,
    resolve: Callable[[LaneSpec], Endpoint | None],
    lease: Callable[[str], AbstractContextManager[None]],
    image_url: Callable[[StoredImage], str] | None = None,
    open_store: Callable[[], RunStore],
    describe_machine: Callable[[], Machine | None],
    stopped: StoppedRequests | None = None,
    usage: SampledUsage | None = None,
) -> None:
    """Serve the owner until it closes the meter or is gone."""
    sys.setswitchinterval(_SWITCH_INTERVAL_S)
    with contextlib.suppress(OSError):  # most systems leave this to root
        os.nice(_PRECEDENCE)
    gc.freeze()
    recorder = Recorder(
        open_store, describe_machine, lost_turns=hello.lost_turns, lost_plans=hello.lost_plans
    )
    if usage:
        usage.start()

    @asynccontextmanager
    async def surroundings() -> AsyncIterator[Surroundings]:
        async with open_session(on_left=stopped.note if stopped else None) as session:
            yield Surroundings(
                session=session,
                resolve=resolve,
                lease=lease,
                image_url=image_url,
                devices=DeviceQueue(hello.settings.locks_dir),
                stopped=stopped,
                usage=usage,
            )

    try:
        with present(hello.settings):
            asyncio.run(_serve(hello, surroundings(), recorder))
    finally:
        if usage:
            usage.close()


async def _serve(
    hello: Hello, surroundings: AbstractAsyncContextManager[Surroundings], recorder: Recorder
) -> None:
    listener = socket.socket(fileno=hello.socket_fd)
    folder = Path(listener.getsockname()).parent
    async with surroundings as around:
        meter = Meter(around, recorder, hello.token)
        recorder.start()
        server = await asyncio.start_unix_server(meter.serve, sock=listener, limit=_LINE_BYTES)
        owner_gone = _watch_owner()
        try:
            await _first(owner_gone, meter.closed)
        finally:
            server.close()
        if not meter.closed.is_set():
            await meter.finish(_ORPHAN_S)
    _remove(folder)


def _watch_owner() -> asyncio.Event:
    """Set when the standard input ends, as it does with the owner's death."""
    gone = asyncio.Event()
    loop = asyncio.get_running_loop()
    descriptor = sys.stdin.fileno()

    def look() -> None:
        if not os.read(descriptor, 1024):
            loop.remove_reader(descriptor)
            gone.set()

    loop.add_reader(descriptor, look)
    return gone


async def _first(*events: asyncio.Event) -> None:
    waits = [asyncio.create_task(event.wait()) for event in events]
    await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    for wait in waits:
        wait.cancel()


def _remove(folder: Path) -> None:
    with contextlib.suppress(OSError):
        for path in folder.iterdir():
            path.unlink()
        folder.rmdir()
