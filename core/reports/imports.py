"""Takes exported runs of whatever kind into the store, after all of them was checked."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import BinaryIO

from core.domain.bench import BenchRun
from core.domain.history import RunKind
from core.domain.quality import QualityRun
from core.errors import StoreError
from core.reports import quality_json, run_json
from core.store.runs.bench_runs import BenchRuns
from core.store.runs.quality_runs import QualityRuns


@dataclass(frozen=True, slots=True)
class Imported:
    """The content of an imported file."""

    kind: RunKind
    run: BenchRun | QualityRun
    is_new: bool
    """False for a run that was here already; then nothing was stored."""


def import_run(file: BinaryIO, bench_runs: BenchRuns, quality_runs: QualityRuns) -> Imported:
    """Take in the run of an open file; its note and tag are left to the caller.

    Raises AccessDenied, StoreError, and InputError: `bad-record` for what is no exported run or holds values
    that can't be, `newer-schema`, `no-raw-facts`, `import-too-large`.
    """
    if quality_json.is_quality_document(file):
        record = quality_json.read_run(file)
        return Imported(RunKind.QUALITY, record.run, _stored(lambda: quality_runs.add(record)))
    exported = run_json.read_run(file)
    for _request in exported.requests():
        pass  # nothing is stored of a file of which some request is wrong
    is_new = _stored(lambda: bench_runs.take_in(exported.run, exported.passes, exported.requests()))
    return Imported(RunKind.BENCH, exported.run, is_new)


def _stored(store: Callable[[], None]) -> bool:
    try:
        store()
    except StoreError as error:
        if error.code != "run-exists":
            raise
        return False
    return True
