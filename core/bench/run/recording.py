"""Writes a run to the store while it goes on, in a thread of its own, so that no disk ever holds up a
timestamp.

What can't be written is kept and tried again; only at the end is it an error.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

from core.domain.bench import BenchPass, BenchRequest, BenchRun
from core.domain.turns import ErrorInfo
from core.errors import StoreError

log = logging.getLogger(__name__)

_INTERVAL_S = 0.5
_SIGN_OF_LIFE_S = 15.0
"""A run that nothing happens in is saved again after this, so that nobody takes it for dead."""


class BenchStore(Protocol):
    """The part of `core.store.runs.bench_runs.BenchRuns` that is written to."""

    def save(
        self, run: BenchRun, passes: Sequence[BenchPass] = (), requests: Sequence[BenchRequest] = ()
    ) -> None: ...
    def close(self) -> None: ...


class Recorder:
    """Takes what is to be stored and returns at once. Thread-safe."""

    def __init__(self, open_store: Callable[[], BenchStore], run: BenchRun) -> None:
        """`open_store` runs in the writer thread, and may take its time to import what it needs."""
        self._open_store = open_store
        self._changed = threading.Condition()
        self._run = run
        self._run_changed = True
        self._passes: dict[int, BenchPass] = {}
        self._requests: deque[BenchRequest] = deque()
        self._closing = False
        self._failure: StoreError | None = None
        self._thread = threading.Thread(target=self._write, name="bench-recorder", daemon=True)
        self.ready = threading.Event()
        """The store is open, or could not be: from now on the thread takes little time."""

    @property
    def problem(self) -> ErrorInfo | None:
        """Why the store can't be written now."""
        failure = self._failure
        return ErrorInfo.of(failure) if failure else None

    def start(self) -> None:
        self._thread.start()

    def save_run(self, run: BenchRun) -> None:
        with self._changed:
            self._run, self._run_changed = run, True

    def save_pass(self, bench_pass: BenchPass) -> None:
        with self._changed:
            self._passes[bench_pass.number] = bench_pass

    def save_request(self, request: BenchRequest) -> None:
        # Without the lock: appending is atomic, and this is called between two timestamps.
        self._requests.append(request)

    def close(self) -> None:
        """Write what waits and end the thread; raises StoreError if that could not be written."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join()
        if self._failure:
            raise self._failure

    def _write(self) -> None:
        store: BenchStore | None = None
        saved_at = float("-inf")
        closing = False
        while not closing:
            with self._changed:
                if not self._closing and saved_at > float("-inf"):
                    self._changed.wait(_INTERVAL_S)
                closing = self._closing
            due = time.monotonic() - saved_at >= _SIGN_OF_LIFE_S
            if not (due or self._run_changed or self._passes or self._requests):
                continue
            try:
                store = store or self._open_store()
                self._save(store)
                self._failure = None
            except StoreError as error:
                if self._failure is None:
                    log.warning("benchmark not stored code=%s", error.code)
                self._failure = error
            saved_at = time.monotonic()
            self.ready.set()
        if store:
            store.close()

    def _save(self, store: BenchStore) -> None:
        with self._changed:
            run, passes = self._run, dict(self._passes)
            self._run_changed = False
        requests = [self._requests[place] for place in range(len(self._requests))]
        try:
            store.save(run, tuple(passes.values()), requests)
        except StoreError:
            with self._changed:
                self._run_changed = True
            raise
        for _ in requests:
            self._requests.popleft()
        with self._changed:
            for number, bench_pass in passes.items():
                if self._passes.get(number) is bench_pass:
                    del self._passes[number]
