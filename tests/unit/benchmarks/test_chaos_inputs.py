"""Some of the malformed inputs of `benchmarks/chaos.py`, others than its own run takes."""

import pytest

from benchmarks import chaos_inputs


@pytest.mark.parametrize("kind", chaos_inputs.SHARES)
def test_damaged_inputs_are_taken_or_refused_with_a_message(kind):
    outcome = chaos_inputs.run(kind, 150, seed=20)
    assert outcome.exceptions == []
    assert outcome.taken + outcome.refused.total() == outcome.inputs == 150
    assert (outcome.lost_chars, outcome.foreign) == (0, 0)


def test_the_same_seed_makes_the_same_inputs():
    first, again = (chaos_inputs.run("streams", 200, seed=3) for _ in range(2))
    assert first == again
    assert first.taken > 0
    assert first.refused.total() > 0
