"""Some of the malformed inputs of `benchmarks/chaos.py`, others than its own run takes."""

from collections import Counter

import pytest

from benchmarks import chaos_inputs


@pytest.mark.parametrize("kind", chaos_inputs.SHARES)
def test_damaged_inputs_are_taken_or_refused_with_a_message(kind):
    outcomes = [outcome for _, outcome in chaos_inputs.attempts(kind, range(150), 20)]
    assert [text for outcome in outcomes for text in outcome.exceptions + outcome.foreign] == []
    assert [outcome.taken + outcome.refused.total() for outcome in outcomes] == [1] * 150
    assert sum(outcome.lost_chars for outcome in outcomes) == 0


def test_the_same_seed_makes_the_same_inputs():
    first, again = ([*chaos_inputs.attempts("streams", range(200), 3)] for _ in range(2))
    assert first == again
    refused = sum((outcome.refused for _, outcome in first), Counter())
    assert 0 < refused.total() < 200
