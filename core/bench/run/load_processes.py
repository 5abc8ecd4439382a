"""The processes that send a load test's requests, as the one that started them sees and reaches them.

They run on this machine or on a node of the cluster, and speak the same messages
(`core.bench.run.load_process`): through a pipe here, and to a node over a connection that only whoever
knows a fresh secret gets. That is not encrypted, like the requests themselves.
"""

import asyncio
import os
import secrets
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from multiprocessing import AuthenticationError, Pipe
from multiprocessing.connection import Client, Connection
from pathlib import Path
from typing import Protocol

from core.bench.plan import BenchPlan
from core.bench.run.load_process import (
    Done,
    Go,
    PassTask,
    Ping,
    Pong,
    Progress,
    Ready,
    Stop,
    Task,
    notice_silence,
)
from core.chat_api.client import Timeouts
from core.cluster.link import ClusterLink
from core.cluster.protocol import Verb
from core.domain.runs import BenchRequest
from core.engines.resolve import Node
from core.errors import EngineError
from core.i18n import N_
from core.settings import PROJECT_ROOT, Settings

_PROGRAM = "from core.bench.run.load_process import main; main()"
"""Not `python -m`, under which its messages would be those of another module, `__main__`."""
_END_S = 5.0


class Way(Protocol):
    """One process and the connection to it."""

    connection: Connection

    @property
    def node(self) -> str | None:
        """Where it runs; None for this machine."""

    @property
    def exit_code(self) -> int | None:
        """Of a process here that has ended."""

    def end(self) -> None:
        """See to it that the process has ended, or will; it was told to."""


class Here:
    """A process on this machine, started at once."""

    node = None

    def __init__(self, home: Path) -> None:
        self.connection, theirs = Pipe()
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-c", _PROGRAM, str(theirs.fileno())],
                cwd=PROJECT_ROOT,
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                env={**os.environ, "LMDYNO_HOME": str(home)},
            )

    @property
    def exit_code(self) -> int | None:
        return self.process.poll()

    def end(self) -> None:
        try:
            self.process.wait(_END_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


class OnNode:
    """A process on a node, started by the node's agent; it ends with the connection."""

    exit_code = None

    def __init__(self, link: ClusterLink, node: Node) -> None:
        """Takes seconds; raises EngineError if the node can't be used or its port not be reached."""
        self.node = node.name
        secret = secrets.token_hex(32)
        port = link.ask(Verb.LOAD, node=node.name, secret=secret).port
        try:
            self.connection = Client((node.address, port or 0), authkey=secret.encode())
            notice_silence(self.connection)
        except (OSError, EOFError, AuthenticationError) as exc:
            raise EngineError(
                N_(
                    "The load test's process on node {node} can't be reached at {address}: {reason}",
                    node=node.name,
                    address=f"{node.address}:{port}",
                    reason=str(exc) or type(exc).__name__,
                ),
                hint=N_("Allow connections between the nodes, as engines need them too."),
                code="load-process-unreachable",
            ) from exc

    def end(self) -> None:
        with suppress(OSError):
            self.connection.close()


_ROUND_TRIPS = 16


class LoadProcess:
    """One of the processes, as the one that started it sees it. Belongs to one event loop.

    What it sends back is in this process's time: `time.perf_counter_ns` of a node is another clock, whose
    offset is measured before each pass. All times of one request stay those of one clock, so no latency
    depends on the offset.
    """

    def __init__(self, task: Task, on_request: Callable[[BenchRequest], None], way: Way) -> None:
        self._on_request = on_request
        self._loop = asyncio.get_running_loop()
        self._way = way
        self.progress = Progress({}, {})
        self.offset_ns = 0
        """Its clock minus this one."""
        self.offset_error_ns = 0
        """By how much the offset may be wrong: half of the quickest round trip."""
        self._awaited: asyncio.Future[Ready | Done | Pong] | None = None
        self._thread = threading.Thread(target=self._receive, daemon=True)
        self._thread.start()
        way.connection.send(task)

    @property
    def node(self) -> str | None:
        """Where it runs; None for this machine."""
        return self._way.node

    @property
    def exit_code(self) -> int | None:
        """Of one on this machine that has ended."""
        return self._way.exit_code

    async def ask(self, message: PassTask | Go | Stop | Ping) -> Ready | Done | Pong:
        """The answer; raises EngineError if the process has ended."""
        self._awaited = self._loop.create_future()
        if isinstance(message, PassTask):
            self.progress = Progress({}, {})
        try:
            self._way.connection.send(message)
        except OSError:
            raise self._ended() from None
        return await self._awaited

    async def compare_clocks(self) -> None:
        """Measure the offset anew; nothing for a process on this machine, which shares the clock.

        The answer was given between question and arrival: the middle of the quickest round trip is wrong by
        half of it at most.
        """
        if self.node is None:
            return
        quickest_ns = None
        for _ in range(_ROUND_TRIPS):
            asked_ns = time.perf_counter_ns()
            answer = await self.ask(Ping())
            if not isinstance(answer, Pong):
                return
            round_trip_ns = answer.arrived_ns - asked_ns
            if quickest_ns is None or round_trip_ns < quickest_ns:
                quickest_ns = round_trip_ns
                self.offset_ns = answer.at_ns - (asked_ns + answer.arrived_ns) // 2
                self.offset_error_ns = (round_trip_ns + 1) // 2

    def close(self) -> None:
        # Closing would not reach it: the thread that receives keeps the connection open.
        with suppress(OSError):
            self._way.connection.send(None)
        if self.node is None:
            self._way.end()
        self._thread.join(_END_S)
        self._way.end()
        self._way.connection.close()

    def _receive(self) -> None:
        try:
            while True:
                message = self._way.connection.recv()
                if isinstance(message, BenchRequest):
                    self._on_request(shifted(message, -self.offset_ns))
                elif isinstance(message, Progress):
                    self.progress = message
                else:
                    if isinstance(message, Pong):
                        message = replace(message, arrived_ns=time.perf_counter_ns())
                    self._loop.call_soon_threadsafe(self._answer, message)
        except (EOFError, OSError):
            if not self._loop.is_closed():
                self._loop.call_soon_threadsafe(self._answer, None)

    def _answer(self, message: Ready | Done | Pong | None) -> None:
        awaited = self._awaited
        if awaited is None or awaited.done():
            return
        if isinstance(message, Done):
            self.progress = message.progress
        if message is None:
            awaited.set_exception(self._ended())
        else:
            awaited.set_result(message)

    def _ended(self) -> EngineError:
        return _ended(self.exit_code) if self.node is None else _ended_on(self.node)


class LoadProcesses:
    """All processes that share the load of a pass. Enter it inside the event loop."""

    def __init__(
        self,
        settings: Settings,
        plan: BenchPlan,
        timeouts: Timeouts,
        on_request: Callable[[BenchRequest], None],
        ways: Sequence[Way] | None = None,
        *,
        group: int = 0,
        groups: int = 1,
    ) -> None:
        """`ways`: to processes that run, instead of so many on this machine; `group` of so many that send
        requests of the same run, so that each request has a number of its own."""
        if ways is None:
            ways = [Here(settings.home) for _ in range(plan.workers or 1)]
        sampling = plan.workload.sampling()
        # Nodes need not know how to reach the store.
        told = replace(settings, database_url="")
        self.all = [
            LoadProcess(
                Task(
                    number=group * len(ways) + place,
                    of=groups * len(ways),
                    settings=told,
                    sampling=sampling,
                    timeouts=timeouts,
                ),
                on_request,
                way,
            )
            for place, way in enumerate(ways)
        ]

    def close(self) -> None:
        for process in self.all:
            process.close()


def shifted(request: BenchRequest, by_ns: int) -> BenchRequest:
    """The request with all its times on a clock that is so much ahead."""
    timing = request.timing
    if by_ns == 0 or timing is None:
        return request
    return replace(
        request,
        planned_ns=None if request.planned_ns is None else request.planned_ns + by_ns,
        timing=replace(
            timing,
            sent_ns=timing.sent_ns + by_ns,
            first_event_ns=None if timing.first_event_ns is None else timing.first_event_ns + by_ns,
            chunk_ns=tuple(chunk_ns + by_ns for chunk_ns in timing.chunk_ns),
            ended_ns=None if timing.ended_ns is None else timing.ended_ns + by_ns,
        ),
    )


def _ended_on(node: str) -> EngineError:
    return EngineError(
        N_("The load test's process on node {node} ended unexpectedly.", node=node),
        hint=N_("Check the node on the Engines page, then run the test again."),
        code="load-process-ended",
    )


def _ended(code: int | None) -> EngineError:
    return EngineError(
        N_("A process of the load test ended unexpectedly (exit code {code}).", code=code),
        hint=N_("Run the test again, with --workers 1 if it happens again."),
        code="load-process-ended",
    )
