"""A process that sends a share of a load test's requests, started by `core.bench.run.split_load`.

It is told what to send through a connection whose descriptor it inherits, sends it with the code that a test
in one process uses, and hands every finished request back at once. It ends when the connection does. The
messages are pickled: both ends are this program.
"""

import asyncio
import gc
import queue
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import count, islice
from multiprocessing.connection import Connection
from typing import Any

from core.bench.run.load import Extent, LaneLoad, PassLoad, Sending
from core.chat_api.client import Timeouts, open_session
from core.domain.sampling import Sampling
from core.engines.unfinished import StoppedRequests
from core.i18n import Text
from core.settings import Settings

_PROGRESS_S = 0.25
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
    """Begin the prepared pass at a time by `time.perf_counter_ns`, which all processes here share."""

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


async def serve(connection: Connection) -> None:
    """Do what is asked until the connection ends."""
    outbox = Outbox(connection)
    inbox: asyncio.Queue[Any] = asyncio.Queue()
    threading.Thread(
        target=_receive, args=(connection, inbox, asyncio.get_running_loop()), daemon=True
    ).start()
    task: Task = await inbox.get()
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


def _receive(connection: Connection, inbox: asyncio.Queue[Any], loop: asyncio.AbstractEventLoop) -> None:
    try:
        with suppress(EOFError, OSError):
            while True:
                loop.call_soon_threadsafe(inbox.put_nowait, connection.recv())
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
    # These reach the whole group; whoever started this process decides what they mean for it.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    switch_threads_quickly()
    asyncio.run(serve(Connection(int(sys.argv[1]))))
