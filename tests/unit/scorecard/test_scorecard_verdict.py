from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core import i18n
from core.bench.planning.plan import Workload
from core.bench.statistics import Interval, Ratio
from core.i18n import _
from core.scorecard.card import Ratios
from core.scorecard.verdict import interval_text, is_claim, verdict
from tests.unit.scorecard.scorecard_samples import AWQ, HF, TURBOMIND, card_of, run_of

SLOW = [0.040, 0.042, 0.038, 0.041]
FAST = [0.010, 0.011, 0.009, 0.010]
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
