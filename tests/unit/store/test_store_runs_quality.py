from contextlib import closing
from dataclasses import replace

import pytest

from core.domain.runs import HistoryFilter, RunKind, RunState
from core.errors import StoreError
from core.store.history import History
from core.store.runs import QualityRuns
from tests.unit.quality import quality_samples as samples


@pytest.fixture
def runs(database_url):
    with closing(QualityRuns(database_url)) as runs:
        yield runs


@pytest.fixture
def history(database_url):
    with closing(History(database_url)) as history:
        yield history


def test_a_run_is_read_back_as_it_was(runs):
    record = samples.record()
    runs.add(record)
    read = runs.record("q1")
    assert read.run == record.run
    assert sorted(read.answers, key=repr) == sorted(record.answers, key=repr)


def test_a_run_grows_and_its_answers_change(runs):
    record = samples.record(state=RunState.RUNNING, finished_at=None)
    first, second, *_ = record.answers
    runs.save(record.run, [first])
    runs.save(record.run, [replace(first, token_ids=(1, 2)), second])
    assert [answer.token_ids for answer in runs.record("q1").answers] == [(1, 2), second.token_ids]


def test_a_run_is_taken_in_once(runs):
    runs.add(samples.record())
    with pytest.raises(StoreError) as refused:
        runs.add(samples.record())
    assert refused.value.code == "run-exists"


def test_a_run_that_is_not_there_is_none_or_refused(runs):
    assert runs.run("none") is None
    with pytest.raises(StoreError) as refused:
        runs.record("none")
    assert refused.value.code == "no-such-run"


def test_the_history_lists_finds_annotates_and_purges_it(runs, history):
    record = samples.record()
    runs.add(record)
    (entry,) = history.entries(HistoryFilter(kind=RunKind.QUALITY, lane="awq", text="W4A16"))
    assert (entry.id, entry.lanes, entry.state) == ("q1", ("hf", "turbomind", "awq"), "done")
    assert history.entries(HistoryFilter(lane="no such lane")) == ()
    history.annotate(RunKind.QUALITY, "q1", note="Kept", tag="demo")
    assert (runs.run("q1").note, runs.run("q1").tag) == ("Kept", "demo")
    assert [run.id for run in runs.latest()] == ["q1"]
    history.delete(RunKind.QUALITY, ["q1"])
    assert runs.latest() == ()
    assert history.purge(record.run.created_at.replace(year=2999)).entries == 1
    assert runs.run("q1") is None
