"""A scorecard of measured lanes, and one read from a store, of the newest of many runs."""

from contextlib import ExitStack, closing
from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core import i18n
from core.bench.plan import Workload
from core.bench.results.result import RunRecords
from core.bench.statistics import Interval, Ratio
from core.domain.runs import LoadLevel, RunKind, RunState
from core.domain.specs import Patience
from core.domain.turns import ErrorInfo
from core.i18n import _
from core.reports.scorecard import (
    Ratios,
    ScorecardReader,
    Staleness,
    interval_text,
    is_claim,
    staleness,
    verdict,
)
from core.store.history import History
from core.store.runs import BenchRuns, QualityRuns
from tests.unit.bench.bench_samples import MACHINE
from tests.unit.quality import quality_samples
from tests.unit.reports.scorecard_samples import (
    AWQ,
    HF,
    LANES,
    TURBOMIND,
    VERSION,
    card_of,
    measured,
    now,
    run_of,
)

SLOW = [0.040, 0.042, 0.038, 0.041]
FAST = [0.010, 0.011, 0.009, 0.010]


def test_lanes_that_were_never_measured_have_no_figures_and_say_so():
    card = card_of()
    assert card.unmeasured == ("hf", "turbomind", "awq")
    assert card.without_quality == ("hf", "turbomind", "awq")
    assert {row.speed_gap.reason for row in card.rows} == {Staleness.NEVER_MEASURED}
    assert card.best == {}


def test_each_lane_has_the_figures_of_its_newest_run():
    new = run_of({HF: FAST, TURBOMIND: FAST}, run_id="new")
    old = run_of({HF: SLOW, TURBOMIND: SLOW, AWQ: SLOW}, run_id="old")
    card = card_of(new, old)
    assert [row.speed.run_id for row in card.rows] == ["new", "new", "old"]
    assert card.row("awq").ratios.decode.value == pytest.approx(0.010 / 0.04025)


def test_a_run_with_the_baselines_work_is_preferred_to_a_newer_one():
    other_work = run_of({TURBOMIND: FAST}, run_id="new", workload=Workload(prompt_tokens=9, output_tokens=9))
    card = card_of(other_work, run_of({HF: SLOW, TURBOMIND: SLOW}, run_id="old"))
    assert card.row("turbomind").speed.run_id == "old"
    alone = card_of(other_work, run_of({HF: SLOW}, run_id="old"))
    assert alone.row("turbomind").speed.run_id == "new"
    assert alone.row("turbomind").ratios.decode is None


def test_a_measurement_of_other_settings_is_told_not_shown():
    changed = replace(HF, settings=replace(HF.settings, dtype="bfloat16"))
    card = card_of(run_of({HF: SLOW}), lanes=[now(changed), now(TURBOMIND)])
    row = card.row("hf")
    assert row.speed is None
    assert row.speed_gap.reason is Staleness.OTHER_SETTINGS
    assert row.speed_gap.last.run_id == "r1"


def test_the_best_lane_of_each_figure():
    card = card_of(run_of({HF: SLOW, TURBOMIND: FAST}))
    assert card.best == {
        "ttft_p50_s": "turbomind",
        "decode_p50_tok_per_s": "turbomind",
        "system_tok_per_s": "turbomind",
    }


def test_nobody_is_best_by_a_difference_that_the_interval_does_not_show():
    noisy = [0.010, 0.030, 0.012, 0.028]
    card = card_of(run_of({HF: noisy, TURBOMIND: [gap + 0.0001 for gap in noisy]}))
    assert "ttft_p50_s" not in card.best
    assert "decode_p50_tok_per_s" not in card.best


def test_only_figures_of_the_same_work_are_ranked():
    other_work = run_of({TURBOMIND: FAST}, run_id="b", workload=Workload(prompt_tokens=9, output_tokens=9))
    assert card_of(run_of({HF: SLOW}), other_work).best == {}


def test_the_best_load_stands_beside_the_throughput():
    card = card_of(run_of({HF: SLOW}, second_load=True))
    assert card.row("hf").speed.best_point.level == LoadLevel(concurrency=4)


(MEASURED,) = measured(run_of({TURBOMIND: [0.01]}))


def changed_settings(**changes):
    return replace(TURBOMIND, settings=replace(TURBOMIND.settings, **changes))


def test_a_lane_as_it_was_measured_is_fresh():
    assert staleness(now(TURBOMIND), MEASURED) is None


@pytest.mark.parametrize(
    ("lane", "reason"),
    [
        (now(changed_settings(cache_max_entry_count=0.8)), Staleness.OTHER_SETTINGS),
        (now(changed_settings(quant_policy=8)), Staleness.OTHER_SETTINGS),
        (now(replace(TURBOMIND, model=replace(TURBOMIND.model, checkpoint="/b"))), Staleness.OTHER_SETTINGS),
        (now(TURBOMIND, engine_version="engine 2"), Staleness.OTHER_ENGINE_VERSION),
        (now(TURBOMIND, machine=replace(MACHINE, gpus=("H200",))), Staleness.OTHER_MACHINE),
        (now(TURBOMIND, machine=replace(MACHINE, host="other")), Staleness.OTHER_MACHINE),
        (now(TURBOMIND, machine=replace(MACHINE, driver="600.1")), Staleness.OTHER_MACHINE),
    ],
)
def test_what_figures_depend_on_makes_them_stale(lane, reason):
    assert staleness(lane, MEASURED) is reason


@pytest.mark.parametrize(
    "lane",
    [
        now(changed_settings(start_timeout_s=5.0)),
        now(replace(TURBOMIND, patience=Patience(stall_s=3.0))),
        now(TURBOMIND, engine_version=None),
        now(TURBOMIND, machine=replace(MACHINE, python="3.13.0", platform="Linux-7")),
    ],
)
def test_what_changes_no_figure_keeps_them(lane):
    assert staleness(lane, MEASURED) is None


def test_a_run_of_an_unknown_machine_is_not_taken_for_one_of_this():
    assert staleness(now(TURBOMIND), replace(MEASURED, machine=None)) is Staleness.OTHER_MACHINE


AWQ_GAPS = [0.013, 0.0135, 0.0125, 0.013]
CARD = card_of(run_of({HF: SLOW, TURBOMIND: FAST}))


def card_with(ratio):
    """The same scorecard, with another ratio of decode speeds."""
    rows = tuple(
        replace(row, ratios=Ratios(decode=ratio)) if row.name == "turbomind" else row for row in CARD.rows
    )
    return replace(CARD, rows=rows)


def test_what_is_faster_by_how_much():
    (sentence,) = verdict(CARD)
    assert sentence.startswith("turbomind decodes 4.03 times as fast as hf (3.")
    assert sentence.endswith(", n = 4).")


def test_four_bit_weights_are_compared_with_the_same_engine_in_16_bits():
    first, second = verdict(card_of(run_of({HF: SLOW, TURBOMIND: FAST, AWQ: AWQ_GAPS})))
    assert first.startswith("turbomind decodes")
    assert second.startswith("awq's weights take 40% of the space of turbomind's, and it decodes 0.77 times")


def test_a_baseline_in_16_bits_is_compared_once():
    (sentence,) = verdict(card_of(run_of({TURBOMIND: FAST, AWQ: AWQ_GAPS}), baseline="turbomind"))
    assert sentence.startswith(
        "awq's weights take 40% of the space of turbomind's, and it decodes 0.77 times"
    )


def test_four_bit_weights_are_not_compared_with_another_engine():
    (sentence,) = verdict(card_of(run_of({HF: SLOW, AWQ: AWQ_GAPS})))
    assert sentence.startswith("awq decodes 3.10 times as fast as hf")
    assert "weights" not in sentence


def test_a_verdict_has_two_sentences_at_most():
    assert len(verdict(card_of(run_of({HF: SLOW, TURBOMIND: FAST, AWQ: SLOW})))) == 2


def test_one_measured_lane_has_no_verdict():
    assert verdict(card_of()) == ()
    assert verdict(card_of(run_of({HF: SLOW}))) == ()


def test_lanes_with_different_work_get_none_but_a_hint():
    other_work = run_of({TURBOMIND: FAST}, run_id="b", workload=Workload(prompt_tokens=9, output_tokens=9))
    (sentence,) = verdict(card_of(run_of({HF: SLOW}), other_work))
    assert "can't be compared" in sentence


def test_one_request_decides_nothing():
    (sentence,) = verdict(card_of(run_of({HF: SLOW[:1], TURBOMIND: FAST[:1]})))
    assert sentence.startswith("turbomind and hf are not decided: with n = 1")


def test_it_is_told_in_the_readers_language():
    with i18n.use_language(i18n.Language.CHINESE):
        (sentence,) = (_(text) for text in verdict(CARD))
    assert "turbomind" in sentence
    assert "倍" in sentence


RATIOS = st.tuples(st.floats(0.01, 100), st.floats(0.0, 1.0), st.floats(0.0, 1.0), st.integers(2, 1000)).map(
    lambda drawn: Ratio(
        value=drawn[0],
        interval=Interval(drawn[0] * (1 - drawn[1]), drawn[0] * (1 + drawn[2])),
        n=drawn[3],
    )
)


@settings(deadline=None)
@given(RATIOS)
def test_nothing_is_claimed_when_the_interval_contains_1(ratio):
    (sentence,) = verdict(card_with(ratio))
    says_a_difference = "times as fast" in sentence
    if ratio.interval.low <= 1 <= ratio.interval.high:
        assert not says_a_difference
        assert "no clear difference" in sentence
    if says_a_difference:
        low, high = (float(edge) for edge in interval_text(ratio).split("–"))
        assert not low <= 1 <= high
    assert says_a_difference == is_claim(ratio)


@given(st.floats(0.01, 100), st.integers(0, 1))
def test_nothing_is_claimed_without_an_interval(value, n):
    (sentence,) = verdict(card_with(Ratio(value=value, interval=None, n=n)))
    assert "not decided" in sentence
    assert not is_claim(Ratio(value=value, interval=None, n=n))


@pytest.mark.parametrize(("low", "high"), [(1.001, 1.2), (0.5, 0.998)])
def test_an_interval_that_is_printed_with_1_at_its_edge_supports_nothing(low, high):
    assert not is_claim(Ratio(value=(low + high) / 2, interval=Interval(low, high), n=24))


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
