"""The dashboard's side of the meter: starts its process, hands it turns, follows them.

Synchronous and thread-safe, for the many threads of a web app. Each command has a connection of its own.
"""

import contextlib
import logging
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

from core.access.guard import Action, authorise, may_see
from core.codec import decode, encode
from core.domain.turns import (
    ErrorInfo,
    FinishReason,
    Phase,
    RequestPlan,
    RequestRecord,
    TurnPlan,
    TurnRecord,
    utc_now,
)
from core.errors import EngineCrashed, EngineTimeout, InputError
from core.i18n import N_
from core.meter.protocol import METER_DIED, Command, Hello, Reply, Update, Verb
from core.settings import PROJECT_ROOT, Settings

log = logging.getLogger(__name__)

_REMEMBERED_TURNS = 200
_REMEMBERED_REQUESTS = 1_000
_REPLY_S = 30.0
_CLOSE_S = 30.0
_END_S = 5.0
_SURELY_STORED = timedelta(seconds=60)
"""How old a turn is that the store has, unless the store has a problem."""
_KEPT_AS = ("utf-8", "surrogatepass")
_SOCKET = "meter"
_COMMAND = (sys.executable, "-m", "core.meter.process")


@dataclass(frozen=True, slots=True)
class _Process:
    """A started meter and how to reach it."""

    popen: subprocess.Popen[bytes]
    folder: Path
    token: str

    @property
    def address(self) -> str:
        return str(self.folder / _SOCKET)

    @property
    def alive(self) -> bool:
        return self.popen.poll() is None


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """The meter's state of a conversation."""

    turns: tuple[TurnRecord, ...] = ()
    """Those that the store doesn't have as they are: running, not written yet, or not to be written."""
    lost: tuple[RequestRecord, ...] = ()
    """Requests of meters that died, as they were shown last."""
    last_turn_id: str | None = None
    """The turn that was started last, in whichever browser session."""
    store_problem: ErrorInfo | None = None
    """Why turns can't be stored now; None while they can."""


class _Lost(Exception):
    """The meter's process is gone."""


class MeterLink:
    """Owns the meter's process, which starts with the first turn and is started again if it died."""

    def __init__(self, settings: Settings, *, command: Sequence[str] = _COMMAND) -> None:
        self._settings = settings
        self._command = command
        self._starting = threading.Lock()
        """Held while the process is started or found dead, so that one thread does it."""
        self._process: _Process | None = None
        self._plans: deque[TurnPlan] = deque(maxlen=_REMEMBERED_TURNS)
        self._lost: deque[TurnPlan] = deque(maxlen=_REMEMBERED_TURNS)
        self._ended: dict[str, RequestRecord] = {}
        """Requests of lost turns as followers saw them last, by id."""

    def prepare(self) -> None:
        """Start the process now, so that the first turn finds it ready; returns at once.

        Raises EngineCrashed (`meter-unavailable`), like `start`.
        """
        self._running()

    def start(self, plan: TurnPlan) -> None:
        """Hand over a turn, which then runs whoever follows it; the same plan twice is one turn.

        It belongs to whoever acts. Raises AccessDenied, and EngineCrashed (`meter-unavailable`) if the
        process can't be started.
        """
        plan = replace(plan, owner=authorise(Action.CHAT).owner)
        for _attempt in range(2):
            process = self._running()
            self._plans.append(plan)
            with contextlib.suppress(_Lost):
                self._ask(process, Verb.START, plan=plan)
                return
        raise _unavailable(N_("it exits immediately"))

    def follow(
        self, turn_id: str, request_id: str, *, tick_s: float = 0.2
    ) -> Generator[Update | None, None, None]:
        """First the whole text so far, then pieces joined to at most 20 a second, last the record.

        The more requests are followed, the fewer pieces come. None at least every `tick_s` while nothing
        arrives. Closing the generator cancels nothing. The last
        update of a turn whose meter died has a record with the error `meter-died`; a turn that the meter
        does not know (never started here, or ended long ago) raises InputError (`unknown-turn`).
        """
        self._refuse_unseen(turn_id)
        # Small strings would take several times as much, for each page that follows.
        content, reasoning = bytearray(), bytearray()
        try:
            for update in self._updates(turn_id, request_id, tick_s):
                if update:
                    content += update.content.encode(*_KEPT_AS)
                    reasoning += update.reasoning.encode(*_KEPT_AS)
                yield update
        except _Lost:
            if self._process:
                self._running()  # a new one mends what the dead one left open in the store
            texts = (text.decode(*_KEPT_AS) for text in (content, reasoning))
            plan, record = self._lost_record(turn_id, request_id, *texts)
            # The store has the text of half a second before, or nothing of a turn that had just begun.
            self._ask_if_alive(Verb.SAVE, plan=plan, record=record)
            yield Update(request_id=request_id, phase=Phase.DONE, record=record)

    def cancel(self, turn_id: str, request_id: str | None = None) -> None:
        """End a turn, or one of its requests, with what arrived kept; does nothing if it is over.

        Raises AccessDenied for a turn of somebody else's.

        Returns when a turn has ended, so that a page drawn afterwards shows it so, at the latest after 0.3 s.
        """
        turn = self.turn(turn_id)
        if turn is None or turn.done:
            return
        identity = authorise(Action.STOP_ANSWER, turn_id, owner=turn.owner)
        self._ask_if_alive(Verb.CANCEL, turn_id=turn_id, request_id=request_id, by=identity.person)

    def turn(self, turn_id: str) -> TurnRecord | None:
        """The turn as the meter holds it now; None for one that it does not hold (any more).

        None too for one that whoever acts may not see.
        """
        turn = self._ask_if_alive(Verb.TURN, turn_id=turn_id).turn
        return turn if turn and may_see(turn.owner, by_link=True) else None

    def conversation(self, conversation_id: str) -> Held:
        """Turns of a conversation that aren't in the store yet and that the current user may see."""
        reply = self._ask_if_alive(Verb.CONVERSATION, conversation_id=conversation_id)
        with self._starting:
            lost = {
                plan.id
                for plan in self._lost
                if plan.conversation_id == conversation_id and may_see(plan.owner, by_link=True)
            }
            ended = tuple(record for record in self._ended.values() if record.turn_id in lost)
        seen = all(may_see(turn.owner, by_link=True) for turn in reply.turns)
        return Held(
            turns=reply.turns if seen else (),
            lost=ended,
            last_turn_id=reply.last_turn_id,
            store_problem=reply.store_problem,
        )

    def close(self) -> None:
        """Cancel running turns, record them, and end the process."""
        with self._starting:
            process, self._process = self._process, None
            self._lost.extend(self._plans)
            self._plans.clear()
        if process is None:
            return
        with contextlib.suppress(_Lost, EngineTimeout):
            self._ask(process, Verb.CLOSE, timeout_s=_CLOSE_S)
        _end(process)

    def _running(self) -> _Process:
        with self._starting:
            self._bury_if_dead()
            if self._process is None:
                try:
                    self._process = self._spawn()
                except OSError as exc:
                    raise _unavailable(str(exc)) from exc
            return self._process

    def _bury_if_dead(self) -> None:
        """Take note of a process that died; the lock must be held."""
        if self._process is None or self._process.alive:
            return
        log.error("meter died returncode=%s", self._process.popen.returncode)
        _end(self._process)
        self._process = None
        self._lost.extend(self._plans)
        self._plans.clear()

    def _spawn(self) -> _Process:
        folder = Path(tempfile.mkdtemp(prefix="lmdyno-"))
        token = secrets.token_urlsafe(32)
        # Bound and listening here already, so that nobody has to wait for the process to be ready.
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(folder / _SOCKET))
            listener.listen(128)
            popen = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                cwd=PROJECT_ROOT,
                pass_fds=(listener.fileno(),),
                # Ctrl-C in the dashboard's terminal must reach the meter as a closing, not as a signal.
                start_new_session=True,
            )
            hello = Hello(
                token=token,
                socket_fd=listener.fileno(),
                home=str(self._settings.home),
                lanes_file=str(self._settings.lanes_file),
                database_url=self._settings.database_url,
                secrets_file=str(self._settings.secrets_file),
                lost_turns=tuple(plan.id for plan in self._lost),
                lost_plans=tuple(plan for plan in self._lost if plan.created_at > utc_now() - _SURELY_STORED),
            )
            with contextlib.suppress(BrokenPipeError):  # it died at once; the first command will tell
                _send_hello(popen, hello)
        log.info("meter started pid=%s", popen.pid)
        return _Process(popen, folder, token)

    def _ask_if_alive(self, verb: Verb, **fields: Any) -> Reply:  # noqa: ANN401 - those of a Command
        """The reply; an empty one if no process was ever needed, or if it died."""
        if self._process is None:
            return Reply()
        # A dead one is replaced here and not by the next turn, since the new one mends the store.
        with contextlib.suppress(_Lost):
            return self._ask(self._running(), verb, **fields)
        return Reply()

    def _ask(
        self,
        process: _Process,
        verb: Verb,
        *,
        timeout_s: float = _REPLY_S,
        **fields: Any,  # noqa: ANN401 - those of a Command
    ) -> Reply:
        command = Command(token=process.token, verb=verb, **fields)
        with _connection(process, command) as connection:
            connection.settimeout(timeout_s)
            return _reply(next(_lines(connection)))

    def _updates(self, turn_id: str, request_id: str, tick_s: float) -> Iterator[Update | None]:
        process = self._process
        if process is None:
            raise _Lost
        command = Command(token=process.token, verb=Verb.FOLLOW, turn_id=turn_id, request_id=request_id)
        with _connection(process, command) as connection:
            connection.settimeout(tick_s)
            lines = _lines(connection)
            while (line := next(lines)) is None:
                yield None
            try:
                _reply(line)
            except InputError:
                raise _Lost from None
            for line in lines:
                update = decode(Update, line) if line else None
                yield update
                if update and update.record:
                    return

    def _refuse_unseen(self, turn_id: str) -> None:
        """Treat a turn that the current user may not see as missing."""
        with self._starting:
            plans = (*self._plans, *self._lost)
        for plan in plans:
            if plan.id == turn_id and not may_see(plan.owner, by_link=True):
                raise _unknown_turn()

    def _lost_record(
        self, turn_id: str, request_id: str, content: str, reasoning: str
    ) -> tuple[TurnPlan, RequestRecord]:
        """The turn, and what is left of its request, of a meter that died; raises InputError if unknown."""
        with self._starting:
            plans = tuple(self._lost)
        for plan in plans:
            for request in plan.requests:
                if (plan.id, request.id) == (turn_id, request_id):
                    return plan, self._longest(_died(plan, request, content, reasoning))
        raise _unknown_turn()

    def _longest(self, record: RequestRecord) -> RequestRecord:
        """Of what followers saw of a lost request the most; remembered for those that come later."""
        with self._starting:
            known = self._ended.get(record.id)
            if known is None or _length(known) < _length(record):
                self._ended[record.id] = record
            while len(self._ended) > _REMEMBERED_REQUESTS:
                del self._ended[next(iter(self._ended))]
            return self._ended[record.id]


def _length(record: RequestRecord) -> int:
    return len(record.text) + len(record.reasoning)


def _unknown_turn() -> InputError:
    return InputError(
        N_("The meter doesn't know this turn."), hint=N_("Read it from the database."), code="unknown-turn"
    )


def _unavailable(reason: str) -> EngineCrashed:
    return EngineCrashed(
        N_("Can't start the meter's process: {reason}", reason=reason),
        hint=N_("See the dashboard's log for details."),
        code="meter-unavailable",
    )


def _died(plan: TurnPlan, request: RequestPlan, content: str, reasoning: str) -> RequestRecord:
    return replace(
        RequestRecord.of(request, plan.id, phase=Phase.DONE),
        text=content,
        reasoning=reasoning,
        finish_reason=FinishReason.ERROR,
        error=METER_DIED,
    )


def _send_hello(popen: subprocess.Popen[bytes], hello: Hello) -> None:
    if popen.stdin is None:
        raise RuntimeError("the process was started without a standard input")
    popen.stdin.write(encode(hello) + b"\n")
    popen.stdin.flush()


@contextlib.contextmanager
def _connection(process: _Process, command: Command) -> Iterator[socket.socket]:
    """A connection that has been sent the command; raises _Lost if the process is gone."""
    with socket.socket(socket.AF_UNIX) as connection:
        try:
            connection.settimeout(_REPLY_S)
            connection.connect(process.address)
            connection.sendall(encode(command) + b"\n")
            yield connection
        except (ConnectionError, FileNotFoundError) as exc:
            # The kernel closes the sockets of a killed process a little before it can be waited for.
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.popen.wait(1.0)
            raise _Lost from exc


def _lines(connection: socket.socket) -> Iterator[bytes | None]:
    """Received lines; None each time that the connection's time-out passes without one."""
    rest = b""
    while True:
        try:
            received = connection.recv(65_536)
        except TimeoutError:
            yield None
            continue
        if not received:
            raise ConnectionResetError
        *lines, rest = (rest + received).split(b"\n")
        yield from lines


def _reply(line: bytes | None) -> Reply:
    if line is None:
        raise EngineTimeout(
            N_("The meter's process doesn't respond."),
            hint=N_("If it stays like this, restart the dashboard."),
            code="meter-hangs",
        )
    reply = decode(Reply, line)
    if reply.error:
        raise InputError(reply.error.message, hint=reply.error.hint, code=reply.error.code)
    return reply


def _end(process: _Process) -> None:
    """See the process off: let it end by itself, and end it if it does not."""
    popen = process.popen
    if popen.stdin:
        with contextlib.suppress(BrokenPipeError):
            popen.stdin.close()
    try:
        popen.wait(_END_S)
    except subprocess.TimeoutExpired:
        popen.kill()
        popen.wait()
    shutil.rmtree(process.folder, ignore_errors=True)
