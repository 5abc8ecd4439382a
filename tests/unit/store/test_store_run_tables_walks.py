from contextlib import closing
from dataclasses import replace
from datetime import timedelta

import pytest

from core.domain.runs import HistoryFilter, RunKind, RunState
from core.domain.turns import utc_now
from core.store.history import History
from core.store.run_tables import Walks
from tests.unit.replay.recorded import H200, lane, walk

RUN = replace(walk(1.0, 2.0), lanes=(lane("hf"), lane("awq")))


@pytest.fixture
def url(tmp_path):
    return f"sqlite:///{tmp_path / 'lmdyno.db'}"


@pytest.fixture
def walks(url):
    with closing(Walks(url)) as walks:
        yield walks


@pytest.fixture
def history(url):
    with closing(History(url)) as history:
        yield history


def test_a_walk_is_read_as_it_was_saved(walks):
    walks.save(RUN)
    assert walks.run(RUN.id) == RUN
    assert walks.run("unknown") is None
    stopped = replace(RUN, state=RunState.STOPPED)
    walks.save(stopped)
    assert walks.run(RUN.id) == stopped


def test_the_history_lists_a_walk_with_its_lanes(walks, history):
    walks.save(RUN)
    (entry,) = history.entries(HistoryFilter(kind=RunKind.WALK, lane="awq"))
    assert (entry.id, entry.title, entry.lanes) == (RUN.id, "Walk with tiny", ("hf", "awq"))
    assert (entry.host, entry.models, entry.state) == (H200.host, ("tiny",), "done")
    assert history.count(HistoryFilter(lane="hf")) == 1
    assert history.count(HistoryFilter(lane="turbomind")) == 0


def test_a_deleted_walk_goes_for_good(walks, history):
    walks.save(RUN)
    history.delete(RunKind.WALK, [RUN.id])
    assert history.entries() == ()
    assert history.purge(utc_now() + timedelta(seconds=1)).entries == 1
    assert walks.run(RUN.id) is None
