"""Load tests as pages see them: read once, computed once, for all sessions of the dashboard.

A run that goes on is read bit by bit; one that has ended is kept until others push it out.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from typing import Protocol, TypeVar, cast

from core.bench.results.definitions import Tool
from core.bench.results.result import BenchResult, results
from core.domain.bench import BenchPass, BenchRecord, BenchRequest, BenchRun, RunState

_KEPT_REQUESTS = 200_000
"""Of all records in memory together; a request with 128 chunks takes about 5 kB."""
_KEPT_VALUES = 32

T = TypeVar("T")


class RunSource(Protocol):
    """The part of `core.store.runs.bench_runs.BenchRuns` that is read."""

    def run(self, run_id: str) -> BenchRun | None: ...
    def record(self, run_id: str) -> BenchRecord: ...
    def passes(self, run_id: str) -> tuple[BenchPass, ...]: ...
    def requests(self, run_id: str, *, after: int = -1) -> tuple[BenchRequest, ...]: ...


class RunRecords:
    """Thread-safe; reading raises StoreError."""

    def __init__(self, source: RunSource) -> None:
        self._source = source
        self._lock = threading.Lock()
        self._records: OrderedDict[str, BenchRecord] = OrderedDict()
        self._values: OrderedDict[tuple[object, ...], object] = OrderedDict()

    def record(self, run_id: str) -> BenchRecord:
        """The run as it stands now; raises StoreError (`no-such-run`)."""
        with self._lock:
            known = self._records.get(run_id)
        run = self._source.run(run_id)
        if known is None or run is None:
            record = self._source.record(run_id)
        elif known.run.state is not RunState.RUNNING:
            record = replace(known, run=run)  # note and tag may have changed
        else:
            record = self._grown(known, run)
        with self._lock:
            self._records[run_id] = record
            self._records.move_to_end(run_id)
            while len(self._records) > 1 and self._kept_requests() > _KEPT_REQUESTS:
                self._records.popitem(last=False)
        return record

    def result(self, record: BenchRecord, tool: Tool = Tool.LMDYNO) -> BenchResult:
        """Everything that is said about a record, with latencies as `tool` defines them."""
        result = self.derived(record, f"result/{tool}", lambda: results(record, tool))
        return replace(result, run=record.run)

    def derived(self, record: BenchRecord, name: str, make: Callable[[], T]) -> T:
        """The result of `make` for a record, cached while the record is unchanged.

        `name` says what it is, and with which options.
        """
        key = (*version(record), name)
        with self._lock:
            if key in self._values:
                self._values.move_to_end(key)
                return cast(T, self._values[key])  # the name stands for the type
        made = make()
        with self._lock:
            self._values[key] = made
            while len(self._values) > _KEPT_VALUES:
                self._values.popitem(last=False)
        return made

    def _grown(self, earlier: BenchRecord, run: BenchRun) -> BenchRecord:
        # The run was read first: if it is final, all of its requests are in the store by now.
        requests = {request.number: request for request in earlier.requests}
        complete = next((place for place in range(len(requests)) if place not in requests), len(requests))
        for request in self._source.requests(run.id, after=complete - 1):
            requests[request.number] = request
        return BenchRecord(
            run=run,
            passes=self._source.passes(run.id),
            requests=tuple(requests[number] for number in sorted(requests)),
        )

    def _kept_requests(self) -> int:
        return sum(len(record.requests) for record in self._records.values())


def version(record: BenchRecord) -> tuple[object, ...]:
    """The same for two records of a run only if they hold the same facts."""
    run, passes = record.run, record.passes
    return run.id, run.state, run.lanes, len(record.requests), len(passes), passes[-1] if passes else None
