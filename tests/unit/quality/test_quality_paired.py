"""Agreement of answers, and tests of paired values."""

import pytest

from core.bench.statistics import wilson
from core.quality.paired import Change, Piece, agreement, diff, mcnemar, mean_difference


def test_identical_answers_agree_everywhere():
    found = agreement([1, 2, 3], [1, 2, 3])
    assert found.identical
    assert (found.prefix_tokens, found.token_ratio, found.parts_at) == (3, 1.0, None)


def test_answers_part_at_their_first_different_token():
    found = agreement([1, 2, 3, 4], [1, 9, 3, 5])
    assert (found.prefix_tokens, found.equal_positions, found.parts_at) == (1, 2, 1)
    assert found.token_ratio == 0.5
    assert found.prefix_ratio == 0.25


def test_a_shorter_answer_parts_where_it_ends():
    found = agreement([1, 2, 3, 4], [1, 2])
    assert not found.identical
    assert (found.parts_at, found.token_ratio) == (2, 0.5)


def test_two_empty_answers_are_identical_but_have_no_share():
    found = agreement([], [])
    assert found.identical
    assert (found.token_ratio, found.prefix_ratio) == (None, None)


def test_a_diff_shows_what_each_side_says():
    assert diff(["The ", "cat ", "sat"], ["The ", "dog ", "sat"]) == (
        Piece(Change.SAME, "The "),
        Piece(Change.ONLY_REFERENCE, "cat "),
        Piece(Change.ONLY_LANE, "dog "),
        Piece(Change.SAME, "sat"),
    )
    assert diff(["a"], ["a", "b"]) == (Piece(Change.SAME, "a"), Piece(Change.ONLY_LANE, "b"))


def pairs(both: int, only_lane: int, only_reference: int, neither: int) -> list[tuple[bool, bool]]:
    return (
        [(True, True)] * both
        + [(False, True)] * only_lane
        + [(True, False)] * only_reference
        + [(False, False)] * neither
    )


def test_mcnemars_test_is_the_binomial_one_of_the_discordant_pairs():
    found = mcnemar(pairs(40, 1, 9, 50))
    assert (found.n, found.only_reference, found.only_lane) == (100, 9, 1)
    assert found.p_value == pytest.approx(2 * (1 + 10) / 2**10)
    assert found.difference_ratio == pytest.approx(-0.08)


def test_equal_lanes_show_no_difference():
    found = mcnemar(pairs(7, 0, 0, 3))
    assert (found.p_value, found.difference_ratio) == (1.0, 0.0)
    assert found.interval.low <= 0 <= found.interval.high


def test_many_discordant_pairs_are_tested_by_the_normal_distribution():
    assert mcnemar(pairs(0, 700, 500, 0)).p_value == pytest.approx(8e-9, rel=0.3)


def test_without_correlation_the_interval_is_made_of_both_wilson_intervals():
    cells = (12, 12, 4, 4)  # 12 × 4 − 12 × 4 = 0
    lane, reference = wilson(24, 32), wilson(16, 32)
    found = mcnemar(pairs(*cells))
    assert found.interval.low == pytest.approx(
        0.25 - ((0.75 - lane.low) ** 2 + (reference.high - 0.5) ** 2) ** 0.5
    )
    assert found.interval.high == pytest.approx(
        0.25 + ((lane.high - 0.75) ** 2 + (0.5 - reference.low) ** 2) ** 0.5
    )


def test_lanes_that_err_on_the_same_questions_have_a_narrower_interval():
    together, apart = mcnemar(pairs(48, 4, 0, 48)).interval, mcnemar(pairs(27, 25, 21, 27)).interval
    assert together.high - together.low < 0.6 * (apart.high - apart.low)


def test_nothing_in_common_has_no_test():
    assert mcnemar([]) is None


def test_a_mean_difference_is_weighted_by_tokens():
    found = mean_difference([10.0, 2.0], [8.0, 2.0], [10, 30])
    assert found.value == pytest.approx(2 / 40)
    assert found.interval.low <= found.value <= found.interval.high


def test_a_constant_shift_is_clear_and_noise_is_not():
    reference = [float(n) for n in range(20)]
    shifted = mean_difference([value + 1 for value in reference], reference, [10] * 20)
    assert shifted.is_clear
    assert shifted.interval.low == pytest.approx(0.1)
    noisy = mean_difference(
        [value + (1 if place % 2 else -1) for place, value in enumerate(reference)], reference, [10] * 20
    )
    assert not noisy.is_clear


def test_one_text_has_no_interval_and_none_no_difference():
    assert mean_difference([1.0], [0.0], [10]).interval is None
    assert mean_difference([], [], []) is None
