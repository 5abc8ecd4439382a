"""Writes turns to the store in a thread of its own, so that no disk ever holds up a timestamp.

A store that can't be written is one problem to show, never a reason to disturb a turn: what waits to be
written is kept, and tried again.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from typing import Protocol

from core.domain.turns import (
    ErrorInfo,
    FinishReason,
    Growth,
    Machine,
    Phase,
    RequestRecord,
    TurnPlan,
    TurnRecord,
    joined,
)
from core.errors import StoreError
from core.i18n import N_
from core.meter.protocol import METER_DIED

log = logging.getLogger(__name__)

_RETRY_S = 5.0
_SETTLE_S = 0.25
"""Writing begins this long after there is something to write: the start of a turn, with its requests to send
and their first tokens to timestamp, is the worst moment for another thread to want the interpreter."""
_SWEEPS_S = (0.0, 90.0)
"""When requests that a dead meter left open are ended: at once, and again when those that looked fresh at
first are old enough to tell."""


class RunStore(Protocol):
    """The part of `core.store.turns.Store` that is written to; every method may raise StoreError."""

    def open(self) -> None: ...
    def save_turn(self, plan: TurnPlan, machine: Machine | None) -> None: ...
    def save_request(self, record: RequestRecord) -> None: ...
    def save_growths(self, growths: Sequence[Growth]) -> None: ...
    def turn(self, turn_id: str) -> TurnRecord | None: ...
    def interrupt_unfinished(self, *, exclude: Collection[str] = ()) -> int: ...
    def close(self) -> None: ...


class Recorder:
    """Takes what is to be stored and returns at once. Thread-safe."""

    def __init__(
        self,
        open_store: Callable[[], RunStore],
        describe_machine: Callable[[], Machine | None],
        *,
        lost_turns: Sequence[str] = (),
        lost_plans: Sequence[TurnPlan] = (),
    ) -> None:
        """Both callables run in the writer thread, and may take their time to import what they need.

        Args:
            open_store: opens the store.
            describe_machine: tells the machine.
            lost_turns: turns of a dead meter, to be ended.
            lost_plans: those of them that it may not have stored yet.
        """
        self._open_store = open_store
        self._describe_machine = describe_machine
        self._changed = threading.Condition()
        self._plans: deque[TurnPlan] = deque(lost_plans)
        self._records: dict[str, RequestRecord] = {}
        self._growths: dict[str, list[Growth]] = {}
        self._lost: deque[str] = deque(lost_turns)
        self._own_turns: set[str] = set()
        """Turns that sweeps spare; none is noted any more once there are no sweeps left."""
        self._sweeps = deque(time.monotonic() + after_s for after_s in _SWEEPS_S)
        self._closing = False
        self.problem: ErrorInfo | None = None
        """Why the store can't be written now."""
        self.machine: Machine | None = None
        """Known once the thread has looked."""
        self._thread = threading.Thread(target=self._run, name="recorder", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def save_turn(self, plan: TurnPlan) -> None:
        with self._changed:
            if self._sweeps:
                self._own_turns.add(plan.id)
            self._plans.append(plan)
            self._changed.notify()

    def save_request(self, record: RequestRecord) -> None:
        """Keep a request with its whole answer, in place of all that was kept of it."""
        with self._changed:
            self._growths.pop(record.id, None)
            self._records[record.id] = record
            self._changed.notify()

    def save_lost(self, plan: TurnPlan, record: RequestRecord) -> None:
        """Keep a request of a meter that died, which may have stored nothing of its turn."""
        with self._changed:
            self._plans.append(plan)
            self._lost.append(plan.id)
            self._records[record.id] = record
            self._changed.notify()

    def save_growth(self, growth: Growth) -> None:
        """Keep what a running request has grown by."""
        with self._changed:
            self._growths.setdefault(growth.record.id, []).append(growth)
            self._changed.notify()

    def has_saved(self, plan: TurnPlan) -> bool:
        """Whether nothing of the turn waits to be written."""
        with self._changed:
            waiting = {waiting.id for waiting in self._plans}
            return plan.id not in waiting and not any(
                request.id in self._records or request.id in self._growths for request in plan.requests
            )

    def close(self, timeout_s: float) -> None:
        """Write what waits, with one more try if the store has a problem, and end the thread."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join(timeout_s)

    def _run(self) -> None:
        store: RunStore | None = None
        while self._wait_for_work():
            try:
                if store is None:
                    self.machine = self._describe_machine()
                    store = self._open_store()
                self._write_all(store)
                self.problem = None
            except Exception as error:
                if self.problem is None:
                    log.exception("store not written")
                self.problem = _problem(error)
                if self._wait_before_retry():
                    break
        if store:
            store.close()

    def _wait_for_work(self) -> bool:
        """Wait until there is something to write; False when all is written and the meter ends."""
        with self._changed:
            while not (self._has_work() or self._closing):
                self._changed.wait(self._sweeps[0] - time.monotonic() if self._sweeps else None)
            self._changed.wait_for(lambda: self._closing, timeout=_SETTLE_S)
            return self._has_work()

    def _has_work(self) -> bool:
        waiting = self._plans or self._records or self._growths or self._lost
        return bool(waiting) or bool(self._sweeps and self._sweeps[0] <= time.monotonic())

    def _wait_before_retry(self) -> bool:
        """Wait a while after a failure; True if the meter ends, so that no further try is left."""
        with self._changed:
            closing_before = self._closing
            self._changed.wait_for(lambda: self._closing, timeout=_RETRY_S)
            return closing_before

    def _write_all(self, store: RunStore) -> None:
        store.open()
        if self._sweeps and self._sweeps[0] <= time.monotonic():
            self._sweep(store)
        while self._plans:
            store.save_turn(self._plans[0], self.machine)
            self._plans.popleft()
        while self._lost:
            _end_lost(store, self._lost[0])
            self._lost.popleft()
        while record := self._next_record():
            self._write(store, record)
        while growths := self._next_growths():
            try:
                store.save_growths([joined(pieces) for pieces in growths])
            except Exception:
                self._put_back_growths(growths)
                raise

    def _sweep(self, store: RunStore) -> None:
        with self._changed:
            own_turns = tuple(self._own_turns)
        store.interrupt_unfinished(exclude=own_turns)
        with self._changed:
            self._sweeps.popleft()
            if not self._sweeps:
                self._own_turns.clear()

    def _write(self, store: RunStore, record: RequestRecord) -> None:
        try:
            store.save_request(record)
        except Exception as error:
            if isinstance(error, StoreError) and error.code == "store-unknown-turn":
                return  # it was deleted meanwhile: there is nothing left to write to
            self._put_back(record)
            raise

    def _next_record(self) -> RequestRecord | None:
        with self._changed:
            return self._records.pop(next(iter(self._records))) if self._records else None

    def _next_growths(self) -> list[list[Growth]]:
        """All that wait, by request: one transaction for each would cost a crowd's meter half its time."""
        with self._changed:
            growths, self._growths = list(self._growths.values()), {}
            return growths

    def _put_back(self, record: RequestRecord) -> None:
        with self._changed:
            self._records.setdefault(record.id, record)

    def _put_back_growths(self, growths: Sequence[list[Growth]]) -> None:
        with self._changed:
            for pieces in growths:
                request_id = pieces[0].record.id
                if request_id not in self._records:
                    self._growths[request_id] = [*pieces, *self._growths.get(request_id, ())]


def _problem(error: Exception) -> ErrorInfo:
    if isinstance(error, StoreError):
        return ErrorInfo.of(error)
    return ErrorInfo(
        code="store",
        message=N_("The database failed unexpectedly."),
        hint=N_("You can keep chatting. See the dashboard's log for details."),
    )


def _end_lost(store: RunStore, turn_id: str) -> None:
    """End what a dead meter left open, with the text that it had stored by then."""
    turn = store.turn(turn_id)
    for record in turn.requests if turn else ():
        if record.phase is not Phase.DONE:
            store.save_request(
                replace(record, phase=Phase.DONE, finish_reason=FinishReason.ERROR, error=METER_DIED)
            )
