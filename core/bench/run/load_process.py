"""A process that sends a share of a load test's requests, started through `core.bench.run.load_processes`.

It is told what to send through a connection whose descriptor it inherits, or that it accepts on a node. It
sends it with the code that a test in one process uses, and hands every finished request back at once. It ends
when the connection does. The messages are pickled: both ends are this program.
"""

import asyncio
import gc
import json
import os
import queue
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import count, islice
from multiprocessing.connection import Connection, Listener
from pathlib import Path
from typing import Any

from core.bench.run.load import Extent, LaneLoad, PassLoad, Sending
from core.chat_api.client import Timeouts, open_session
from core.domain.conversation import Sampling
from core.engines.requests import StoppedRequests
from core.i18n import Text
from core.settings import Settings

_PROGRESS_S = 0.25
_PATIENCE_S = 30.0
"""How long a process on a node waits for the load test."""
_SWITCH_INTERVAL_S = 0.0005
"""Python's own 5 ms would let another thread delay a timestamp by as much."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """The instructions of a process for a whole run: sent once, first."""

    number: int
    """0 for the first process."""
    of: int
    settings: Settings
    sampling: Sampling
    timeouts: Timeouts


@dataclass(frozen=True, slots=True, kw_only=True)
class PassTask:
    """A pass to prepare: its lanes are this process's own copies."""

    number: int
    lanes: tuple[LaneLoad, ...]
    extent: Extent
    warmup: int
    warmup_concurrency: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Go:
    """Begin the prepared pass at a time by `time.perf_counter_ns` of the process that is told."""

    start_ns: int
    concurrency: int | None = None
    arrivals: Callable[[], Iterable[float]] | None = None
    """The whole schedule; a process sends each `of`-th request of it."""
    place: int = 0
    of: int = 1


@dataclass(frozen=True, slots=True)
class Stop:
    """End the pass; what is under way is handed back as cancelled."""


@dataclass(frozen=True, slots=True)
class Ping:
    """Asks for the time."""


@dataclass(frozen=True, slots=True)
class Pong:
    """The answer to a `Ping`."""

    at_ns: int
    """`time.perf_counter_ns` where it was answered."""
    arrived_ns: int = 0
    """The same where it was asked, when the answer arrived."""


@dataclass(frozen=True, slots=True)
class Ready:
    """The pass is warmed up."""


@dataclass(frozen=True, slots=True)
class Progress:
    """The progress of a process within the pass."""

    finished: dict[str, int]
    tokens: dict[str, int]


@dataclass(frozen=True, slots=True)
class Done:
    """The pass is over."""

    progress: Progress
    end_ns: int
    notes: dict[str, tuple[Text, ...]]
    failure: str = ""
    """What went wrong in the process, if anything did; a request's failure is its own."""


class Outbox:
    """Hands messages over in a thread, one at a time, so that none holds up a timestamp for long."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._messages: queue.SimpleQueue[object] = queue.SimpleQueue()
        threading.Thread(target=self._send, daemon=True).start()

    def put(self, message: object) -> None:
        self._messages.put(message)

    def _send(self) -> None:
        with suppress(OSError):  # nobody is there any more
            while True:
                self._connection.send(self._messages.get())


async def serve(connection: Connection, home: Path | None = None) -> None:
    """Do what is asked until the connection ends; `home` replaces that of the machine that asks."""
    outbox = Outbox(connection)
    inbox: asyncio.Queue[Any] = asyncio.Queue()
    threading.Thread(
        target=_receive, args=(connection, inbox, asyncio.get_running_loop(), outbox), daemon=True
    ).start()
    task: Task = await inbox.get()
    if home is not None:
        task = replace(task, settings=replace(task.settings, home=home))
    stopped = StoppedRequests(task.settings)
    async with open_session(reuse=True, on_left=stopped.note) as session:
        sending = Sending(
            session=session,
            sampling=task.sampling,
            on_request=outbox.put,
            numbers=count(task.number, task.of),
            timeouts=task.timeouts,
        )
        while (message := await inbox.get()) is not None:
            if isinstance(message, PassTask):
                await _one_pass(message, sending, inbox, outbox)
            elif isinstance(message, Stop):  # no pass goes on
                outbox.put(Done(Progress({}, {}), 0, {}))


def _receive(
    connection: Connection, inbox: asyncio.Queue[Any], loop: asyncio.AbstractEventLoop, outbox: Outbox
) -> None:
    try:
        with suppress(EOFError, OSError):
            while True:
                message = connection.recv()
                if isinstance(message, Ping):
                    outbox.put(Pong(time.perf_counter_ns()))
                else:
                    loop.call_soon_threadsafe(inbox.put_nowait, message)
    finally:
        loop.call_soon_threadsafe(inbox.put_nowait, None)


async def _one_pass(task: PassTask, sending: Sending, inbox: asyncio.Queue[Any], outbox: Outbox) -> None:
    load = PassLoad(task.number, task.lanes, task.extent, sending)
    work = asyncio.create_task(load.warm_up(task.warmup, task.warmup_concurrency))
    goes_on, failure = await _until_done(work, load, inbox, outbox)
    if goes_on:
        # What has piled up so far is never looked at again, so the collector has little to do meanwhile.
        gc.collect()
        gc.freeze()
        outbox.put(Ready())
        go = await inbox.get()
        if isinstance(go, Go):
            work = asyncio.create_task(_drive(load, go))
            _, failure = await _until_done(work, load, inbox, outbox)
        elif go is None:
            inbox.put_nowait(None)
    outbox.put(Done(_progress(load), load.end_ns, load.notes, failure))


async def _drive(load: PassLoad, go: Go) -> None:
    if go.concurrency is not None:
        await load.run_closed(go.concurrency, start_ns=go.start_ns)
    elif go.arrivals is not None:
        schedule = go.arrivals

        def mine() -> Iterator[float]:
            return islice(schedule(), go.place, None, go.of)

        await load.run_open(mine, start_ns=go.start_ns)


async def _until_done(
    work: asyncio.Task[None], load: PassLoad, inbox: asyncio.Queue[Any], outbox: Outbox
) -> tuple[bool, str]:
    """Wait for the work, telling how far it is; a message meanwhile ends it.

    Whether it was done to its end, and what went wrong, if anything.
    """
    message = asyncio.create_task(inbox.get())
    while not work.done() and not message.done():
        await asyncio.wait((work, message), timeout=_PROGRESS_S, return_when=asyncio.FIRST_COMPLETED)
        outbox.put(_progress(load))
    goes_on = not message.done()
    if message.done() and message.result() is None:
        inbox.put_nowait(None)
    message.cancel()
    if not work.done():
        work.cancel()
        await asyncio.wait((work,))
    error = None if work.cancelled() else work.exception()
    return goes_on and error is None, repr(error) if error else ""


def _progress(load: PassLoad) -> Progress:
    return Progress(load.finished_by_lane, dict(load.tokens))


def switch_threads_quickly() -> None:
    """Set Python's thread switching as every process that measures needs it."""
    sys.setswitchinterval(_SWITCH_INTERVAL_S)


def main() -> None:
    """On the machine of the load test."""
    _prepare()
    asyncio.run(serve(Connection(int(sys.argv[1]))))


def listen() -> None:
    """On a node: say a port on the standard output and serve whoever connects with the secret."""
    _prepare()
    told = json.loads(sys.stdin.readline())
    with Listener((told["address"], 0), authkey=told["secret"].encode()) as listener:
        sys.stdout.write(f"{listener.address[1]}\n")
        sys.stdout.flush()
        unwanted = threading.Timer(_PATIENCE_S, os._exit, (1,))
        unwanted.daemon = True
        unwanted.start()
        connection = listener.accept()
        unwanted.cancel()
    notice_silence(connection)
    asyncio.run(serve(connection, Path(told["home"])))


def notice_silence(connection: Connection) -> None:
    """Have a connection to another machine end when that machine has gone without a word, in 15 s."""
    with socket.socket(fileno=os.dup(connection.fileno())) as wire:
        wire.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        if sys.platform == "linux":
            wire.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 5)
            wire.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 2)
            wire.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 5)
            wire.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 15_000)


def _prepare() -> None:
    # These reach the whole group; whoever started this process decides what they mean for it.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    switch_threads_quickly()
