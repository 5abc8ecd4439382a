from dataclasses import replace

import pytest

from core.bench.results import cache as bench_records
from core.bench.results.cache import RunRecords
from core.bench.results.definitions import Tool
from core.domain.bench import RunState
from core.errors import StoreError
from tests.unit.bench.bench_samples import A, a_pass, a_plan, a_record, a_request

PLAN = a_plan(A)


class Source:
    """A store that tells how often it was asked for requests."""

    def __init__(self, record):
        self.stored = record
        self.read = []

    def run(self, run_id):
        return self.stored.run if self.stored and self.stored.run.id == run_id else None

    def record(self, run_id):
        if self.run(run_id) is None:
            raise StoreError("gone", code="no-such-run")
        self.read.append("all")
        return self.stored

    def passes(self, run_id):
        return self.stored.passes

    def requests(self, run_id, *, after=-1):
        self.read.append(after)
        return tuple(request for request in self.stored.requests if request.number > after)

    def save(self, *numbers, state=RunState.RUNNING, **run):
        requests = [a_request(number) for number in numbers]
        self.stored = a_record(PLAN, [a_pass()], requests)
        self.stored = replace(self.stored, run=replace(self.stored.run, state=state, **run))


@pytest.fixture
def source():
    source = Source(None)
    source.save(0, 1)
    return source


def numbers(record):
    return [request.number for request in record.requests]


def test_a_run_that_goes_on_is_read_from_its_first_gap_on(source):
    records = RunRecords(source)
    source.save(0, 1, 3)
    assert numbers(records.record(PLAN.id)) == [0, 1, 3]
    source.save(0, 1, 2, 3, 4)
    assert numbers(records.record(PLAN.id)) == [0, 1, 2, 3, 4]
    assert source.read == ["all", 1]


def test_a_run_that_has_ended_is_read_once_but_its_note_stays_fresh(source):
    records = RunRecords(source)
    records.record(PLAN.id)
    source.save(0, 1, 2, state=RunState.DONE)
    assert numbers(records.record(PLAN.id)) == [0, 1, 2]
    source.save(0, 1, 2, state=RunState.DONE, note="the good one")
    assert records.record(PLAN.id).run.note == "the good one"
    assert source.read == ["all", 1]


def test_a_run_that_was_removed_is_an_error(source):
    records = RunRecords(source)
    records.record(PLAN.id)
    source.stored = None
    with pytest.raises(StoreError):
        records.record(PLAN.id)


def test_figures_are_computed_once_a_version_and_definition(source, monkeypatch):
    made = []
    compute = bench_records.results
    monkeypatch.setattr(
        bench_records, "results", lambda record, tool: made.append(tool) or compute(record, tool)
    )
    records = RunRecords(source)
    first = records.record(PLAN.id)
    assert records.result(first) == records.result(first)
    records.result(first, Tool.VLLM)
    assert made == [Tool.LMDYNO, Tool.VLLM]
    source.save(0, 1, 2)
    grown = records.result(records.record(PLAN.id))
    assert grown.points[0].requests.ok == 3
    assert made == [Tool.LMDYNO, Tool.VLLM, Tool.LMDYNO]


def test_large_runs_push_others_out(source, monkeypatch):
    monkeypatch.setattr(bench_records, "_KEPT_REQUESTS", 2)
    records = RunRecords(source)
    source.save(0, 1, state=RunState.DONE)
    records.record(PLAN.id)
    other = a_plan(A, id="other")
    first, source.stored = source.stored, a_record(other, [a_pass()], [a_request(0)])
    records.record("other")
    source.stored = first
    records.record(PLAN.id)
    assert source.read == ["all", "all", "all"]
