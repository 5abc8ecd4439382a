"""Scorecards over a store, the newest of many runs."""

from contextlib import ExitStack, closing
from dataclasses import replace
from datetime import timedelta

import pytest

from core.bench.results.result import RunRecords
from core.domain.runs import RunKind, RunState
from core.domain.turns import ErrorInfo
from core.scorecard.card import Staleness
from core.scorecard.reading import ScorecardReader
from core.store.history import History
from core.store.runs import BenchRuns, QualityRuns
from tests.unit.bench.bench_samples import MACHINE
from tests.unit.quality import quality_samples
from tests.unit.scorecard.scorecard_samples import AWQ, HF, LANES, TURBOMIND, VERSION, run_of

GAPS = [0.010, 0.011, 0.009, 0.010]


class Stores:
    def __init__(self, url):
        self.bench, self.quality, self.history = BenchRuns(url), QualityRuns(url), History(url)
        self.machine = MACHINE
        self.reader = ScorecardReader(
            self.bench, self.quality, RunRecords(self.bench), describe=lambda: self.machine
        )

    def keep(self, record, *, days_ago=0):
        run = replace(record.run, created_at=record.run.created_at - timedelta(days=days_ago))
        self.bench.save(run, record.passes, record.requests)

    def card(self, lanes=LANES, version=VERSION):
        return self.reader.scorecard(
            lanes, lanes[0].name, dict.fromkeys((lane.name for lane in lanes), version)
        )


@pytest.fixture
def stores(tmp_path):
    stores = Stores(f"sqlite:///{tmp_path / 'lmdyno.db'}")
    with ExitStack() as stack:
        for store in (stores.bench, stores.quality, stores.history):
            stack.enter_context(closing(store))
        yield stores


def test_an_empty_store_has_no_figures(stores):
    assert stores.card().unmeasured == ("hf", "turbomind", "awq")


def test_the_newest_run_counts_and_runs_that_go_on_or_were_deleted_do_not(stores):
    stores.keep(run_of({HF: GAPS}, run_id="old"), days_ago=2)
    stores.keep(run_of({HF: GAPS}, run_id="new"), days_ago=1)
    going_on = run_of({HF: GAPS}, run_id="going-on")
    stores.keep(replace(going_on, run=replace(going_on.run, state=RunState.RUNNING)))
    assert stores.card().row("hf").speed.run_id == "new"
    stores.history.delete(RunKind.BENCH, ["new"])
    assert stores.card().row("hf").speed.run_id == "old"


def test_figures_of_another_engine_version_are_stale(stores):
    stores.keep(run_of({HF: GAPS}))
    assert stores.card().row("hf").speed is not None
    assert stores.card(version="engine 2").row("hf").speed_gap.reason is Staleness.OTHER_ENGINE_VERSION


def test_quality_comes_with_its_n_and_its_verdict(stores):
    stores.machine = quality_samples.MACHINE
    stores.quality.add(quality_samples.record())
    card = stores.card(version=None)
    row = card.row("awq")
    assert (row.quality.right, row.quality.asked) == (6, 10)
    assert row.quality.interval.low < 0.6 < row.quality.interval.high
    assert row.quality.sentence == "awq is measurably worse than hf."
    assert card.without_quality == ()


def test_a_lane_that_could_not_take_part_was_not_measured(stores):
    record = run_of({HF: GAPS, AWQ: GAPS})
    hf, awq = record.run.lanes
    failed = replace(awq, error=ErrorInfo("engine-failed", "It failed."))
    stores.keep(replace(record, run=replace(record.run, lanes=(hf, failed))))
    assert stores.card((HF, AWQ)).row("awq").speed_gap.reason is Staleness.NEVER_MEASURED


def test_each_run_is_read_once(stores, monkeypatch):
    stores.keep(run_of({HF: GAPS, TURBOMIND: GAPS}))
    stores.card()
    monkeypatch.setattr(stores.bench, "record", lambda _run_id: pytest.fail("read again"))
    assert stores.card().row("hf").speed is not None
