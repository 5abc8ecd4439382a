"""The meter's process, `python -m core.meter.process`: runs turns for the dashboard, keeps their updates, and
answers commands.

`core.meter.link` starts it. It listens on a Unix socket in a folder that only its owner can enter, and asks
for the token that the owner handed over. When the owner closes it, what still runs is cancelled and recorded;
when the owner dies, which ends the standard input, running turns are finished and recorded first.

Turns belong to the process: a follower that goes away ends nothing. What a request has told so far is kept in
a `Feed` for followers that come late or come again.
"""

import asyncio
import gc
import logging
import os
import secrets
import socket
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AbstractContextManager, asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from core import process_setup
from core.chat_api.client import open_session
from core.codec import decode, encode
from core.domain.conversation import StoredImage
from core.domain.specs import Endpoint, LaneSpec
from core.domain.turns import ErrorInfo, Machine, Phase, RequestRecord, TurnPlan, TurnRecord
from core.engines.registry import lease
from core.engines.requests import StoppedRequests
from core.engines.resolve import find_endpoint
from core.errors import InputError, LMDynoError
from core.files import keep_to_oneself
from core.i18n import N_
from core.meter.devices import DeviceQueue, SampledUsage
from core.meter.protocol import Command, Hello, Reply, Update, Verb, marked_running
from core.meter.recorder import Recorder, RunStore
from core.meter.turns import Surroundings, Turn

log = logging.getLogger(__name__)

_SAVE_INTERVAL_S = 0.5
_HEARTBEAT_S = 20.0
"""Requests that only wait are saved this often too, so that other processes see that somebody cares."""
_KEPT_TURNS = 50
_STOP_S = 0.3
"""How long the answer to a cancelling waits for the turn's end, which takes milliseconds."""
_CANCEL_S = 5.0
_FLUSH_S = 10.0
BEAT_S = 0.05
"""Followers are told together, on beats: the dashboard's threads wake at once, and it sends once for all."""
_SLOWEST_S = 1.0
_UPDATES_PER_S = 200
"""To all followers together. Each costs the dashboard a block of Markdown to parse and to send."""

_ORPHAN_S = 900.0
"""How long turns may still run after the owner died."""
_LINE_BYTES = 2**26
_SWITCH_INTERVAL_S = 0.0005
"""Python's own 5 ms would let the writer thread delay a timestamp by as much."""
_PRECEDENCE = -5
"""Added to the niceness: a timestamp must not wait until a browser on the same machine has drawn."""


@dataclass(eq=False, slots=True)
class Pace:
    """The interval at which a process's followers are told: longer, the more there are. Belongs to one event
    loop.
    """

    followers: int = 0

    @property
    def interval_s(self) -> float:
        return min(_SLOWEST_S, max(BEAT_S, self.followers / _UPDATES_PER_S))

    def next_s(self, now_s: float) -> float:
        """The beat on which a follower that is told now is told again, by the loop's clock."""
        return (now_s // BEAT_S + round(self.interval_s / BEAT_S)) * BEAT_S


@dataclass(eq=False, slots=True)
class Feed:
    """The news of one request, for any number of followers. Belongs to one event loop."""

    request_id: str
    phase: Phase = Phase.QUEUED
    place: int | None = None
    content: list[str] = field(default_factory=list)
    reasoning: list[str] = field(default_factory=list)
    record: RequestRecord | None = None
    unsaved: bool = False
    """There is news that the store has not been given."""
    saved_chunks: int = 0
    """Chunks of the answer that it has been given."""
    followers: set[asyncio.Event] = field(default_factory=set)
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    """Set with the record."""

    def take(self, update: Update) -> None:
        self.phase, self.place, self.record = update.phase, update.place, update.record
        self.content.append(update.content)
        self.reasoning.append(update.reasoning)
        self.unsaved = True
        if update.record:
            self.ended.set()
        for follower in self.followers:
            follower.set()
        self._join_if_over()

    def since(self, seen: int) -> Update:
        """All that was told after the first `seen` updates, as one."""
        return Update(
            request_id=self.request_id,
            phase=self.phase,
            place=self.place,
            content="".join(self.content[seen:]),
            reasoning="".join(self.reasoning[seen:]),
            record=self.record,
        )

    async def follow(self, tell: Callable[[Update], Awaitable[None]], pace: Pace) -> None:
        """Pass every update to `tell`, from the start to the record; those that come too soon are joined."""
        news = asyncio.Event()
        clock = asyncio.get_running_loop().time
        self.followers.add(news)
        pace.followers += 1
        try:
            seen = 0
            while True:
                news.clear()
                update, seen = self.since(seen), len(self.content)
                await tell(update)
                if update.record:
                    return
                with suppress(TimeoutError):  # the end is told at once
                    async with asyncio.timeout_at(pace.next_s(clock())):
                        await self.ended.wait()
                await news.wait()
        finally:
            pace.followers -= 1
            self.followers.discard(news)
            self._join_if_over()

    def _join_if_over(self) -> None:
        """Keep each text as one, for those that come late: in pieces it takes several times as much."""
        if self.record and not self.followers:
            self.content, self.reasoning = ["".join(self.content)], ["".join(self.reasoning)]


class RunningTurn:
    """A turn with its feeds; runs from the moment it is made."""

    def __init__(self, plan: TurnPlan, around: Surroundings, recorder: Recorder) -> None:
        self.plan = plan
        self._recorder = recorder
        self.feeds = {request.id: Feed(request.id) for request in plan.requests}
        # No method of this object, so that a dropped turn is freed at once, with its texts and timestamps,
        # and not when the interpreter next looks for cycles.
        self._turn = Turn(plan, around, partial(_pass_on, self.feeds, recorder))
        self.cancel = self._turn.cancel
        recorder.save_turn(plan)
        self.task = asyncio.create_task(self._run())

    @property
    def done(self) -> bool:
        return self._turn.done

    def record(self) -> TurnRecord:
        return TurnRecord.of(self.plan, self._turn.records(), self._recorder.machine)

    async def _run(self) -> None:
        saver = asyncio.create_task(self._save_as_it_happens())
        try:
            await self._turn.run()
        finally:
            saver.cancel()

    async def _save_as_it_happens(self) -> None:
        beaten_at = time.monotonic()
        while True:
            await asyncio.sleep(_SAVE_INTERVAL_S)
            beat = time.monotonic() - beaten_at > _HEARTBEAT_S
            if beat:
                beaten_at = time.monotonic()
            for request in self._turn.requests:
                feed = self.feeds[request.plan.id]
                if not request.done and (feed.unsaved or beat):
                    growth = request.growth(feed.saved_chunks)
                    feed.unsaved, feed.saved_chunks = False, growth.next_chunk
                    self._recorder.save_growth(growth)


def _pass_on(feeds: dict[str, Feed], recorder: Recorder, update: Update) -> None:
    feed = feeds[update.request_id]
    feed.take(update)
    if update.record:
        feed.unsaved = False
        recorder.save_request(update.record)


class Meter:
    """The turns of this process, and what can be asked about them. Belongs to one event loop."""

    def __init__(self, around: Surroundings, recorder: Recorder, token: str) -> None:
        self._around = around
        self._recorder = recorder
        self._token = token.encode()
        self._turns: dict[str, RunningTurn] = {}
        self._pace = Pace()
        self.closed = asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection: a command, its reply, and updates if it follows."""
        try:
            line = await reader.readline()
            if line:
                await self._obey(line, writer)
        except (ConnectionError, asyncio.LimitOverrunError, ValueError):
            log.info("follower left")
        finally:
            writer.close()

    async def finish(self, timeout_s: float) -> None:
        """Wait for running turns; those that take longer are cancelled. Then write what is left."""
        running = [turn.task for turn in self._turns.values() if not turn.task.done()]
        if running:
            await asyncio.wait(running, timeout=timeout_s)
        for turn in self._turns.values():
            turn.cancel()
        if running:
            await asyncio.wait(running, timeout=_CANCEL_S)
        await asyncio.to_thread(self._recorder.close, _FLUSH_S)

    async def _obey(self, line: bytes, writer: asyncio.StreamWriter) -> None:
        async def tell(message: Reply | Update) -> None:
            writer.write(encode(message) + b"\n")
            await writer.drain()

        try:
            command = decode(Command, line)
            if not secrets.compare_digest(command.token.encode(), self._token):
                raise InputError("Wrong token", code="wrong-token")
            reply = await self._do(command)
        except LMDynoError as error:
            await tell(Reply(error=ErrorInfo.of(error)))
            return
        await tell(reply)
        if command.verb is Verb.FOLLOW:
            await self._feed(command).follow(tell, self._pace)
        elif command.verb is Verb.CLOSE:
            self.closed.set()

    async def _do(self, command: Command) -> Reply:
        match command.verb:
            case Verb.START:
                self._start(command.plan)
            case Verb.FOLLOW:
                self._feed(command)
            case Verb.CANCEL:
                if turn := self._turns.get(command.turn_id):
                    turn.cancel(command.request_id, by=command.by)
                    if command.request_id is None:
                        await asyncio.wait((turn.task,), timeout=_STOP_S)
            case Verb.TURN:
                turn = self._turns.get(command.turn_id)
                return Reply(turn=turn.record() if turn else None)
            case Verb.CONVERSATION:
                return self._conversation(command.conversation_id)
            case Verb.SAVE:
                if command.plan and command.record:
                    self._recorder.save_lost(command.plan, command.record)
            case Verb.CLOSE:
                await self.finish(0)
        return Reply()

    def _start(self, plan: TurnPlan | None) -> None:
        if plan is None:
            raise InputError("A turn needs a plan")
        if plan.id in self._turns:
            return  # the same click once more
        ended = [turn_id for turn_id, turn in self._turns.items() if turn.task.done()]
        for turn_id in ended[: max(0, len(self._turns) - _KEPT_TURNS + 1)]:
            del self._turns[turn_id]
        self._turns[plan.id] = RunningTurn(plan, self._around, self._recorder)

    def _conversation(self, conversation_id: str) -> Reply:
        turns = [turn for turn in self._turns.values() if turn.plan.conversation_id == conversation_id]
        problem = self._recorder.problem
        return Reply(
            turns=tuple(
                turn.record()
                for turn in turns
                if problem or not turn.done or not self._recorder.has_saved(turn.plan)
            ),
            last_turn_id=turns[-1].plan.id if turns else None,
            store_problem=problem,
        )

    def _feed(self, command: Command) -> Feed:
        turn = self._turns.get(command.turn_id)
        feed = turn.feeds.get(command.request_id or "") if turn else None
        if feed is None:
            raise unknown_turn()
        return feed


def unknown_turn() -> InputError:
    return InputError(
        N_("The meter doesn't know this turn."), hint=N_("Read it from the database."), code="unknown-turn"
    )


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
    with suppress(OSError):  # most systems leave this to root
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
        with marked_running(hello.settings):
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
    with suppress(OSError):
        for path in folder.iterdir():
            path.unlink()
        folder.rmdir()


def main() -> None:
    keep_to_oneself()
    hello = read_hello()
    settings = hello.settings
    process_setup.configure_logs()
    process_setup.allow_many_open_files()
    process_setup.keep_heap_small()

    def image_url(image: StoredImage) -> str:
        # An image library comes along, which turns without images don't wait for.
        from core.images.store import ImageStore

        return ImageStore(settings.images_dir).data_url(image)

    def open_store() -> RunStore:
        # SQLAlchemy takes its time; the first request must not wait for it.
        from core.store.turns import Store

        # Its thousands of objects stay for good: looking through them for garbage would hold up timestamps.
        gc.freeze()
        return Store(settings.database_url)

    def describe_machine() -> Machine:
        from core.telemetry.nvml import describe_machine

        return describe_machine()

    run(
        hello,
        resolve=partial(find_endpoint, settings),
        lease=partial(lease, settings),
        image_url=image_url,
        open_store=open_store,
        describe_machine=describe_machine,
        stopped=StoppedRequests(settings),
        usage=SampledUsage(settings),
    )


if __name__ == "__main__":
    main()
