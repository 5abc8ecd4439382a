"""The statistics of sessions, against rooms whose preferences are known."""

import numpy as np
import pytest

from core.domain.sessions import ControlKind
from core.sessions.statistics import (
    FIRST,
    POINTS_PER_LOG_ODDS,
    SECOND,
    TIE,
    Comparison,
    Share,
    agreement,
    columns,
    control_result,
    pairs_of,
    standings,
    win_ratio,
)
from tests.unit.sessions.rooms import Room

SIMULATIONS = 100
AT_LEAST = 93


def results(room: Room, *, seed: int, resamples: int = 120):
    votes = room.votes(seed)
    return standings(columns(votes, len(room.strengths)), votes=len(votes), resamples=resamples)


def true_points(room: Room) -> np.ndarray:
    """What endless voting would give: least squares over the log odds of all pairs, exact for this model."""
    odds = [
        np.log(expected[FIRST] / expected[SECOND])
        for expected in map(room.expected, pairs_of(len(room.strengths)))
    ]
    design = np.zeros((len(odds), len(room.strengths)))
    for row, (one, other) in enumerate(pairs_of(len(room.strengths))):
        design[row, one], design[row, other] = 1, -1
    points = np.linalg.lstsq(design, np.array(odds), rcond=None)[0]
    return points * POINTS_PER_LOG_ODDS


@pytest.mark.parametrize(
    "room",
    [
        pytest.param(Room(strengths=(0.5, 0.0, -0.5), ties=0.8, left=0.4), id="ties-and-position-bias"),
        pytest.param(
            Room(strengths=(0.5, 0.0, -0.5), ties=0.8, left=0.4, lapses=0.1, prompt_spread=0.4), id="noise"
        ),
        pytest.param(Room(strengths=(0.4, -0.4), voters=4, prompts=12, votes_per_voter=12), id="small-room"),
    ],
)
def test_strengths_lie_within_their_intervals_all_at_once(room):
    truth = true_points(room)
    hits = 0
    for seed in range(1000, 1000 + SIMULATIONS):
        lanes = results(room, seed=seed).lanes
        hits += all(lane.low <= points <= lane.high for lane, points in zip(lanes, truth, strict=True))
    assert hits >= AT_LEAST


def test_ties_and_position_bias_leave_the_strengths_as_they_are():
    room = Room(strengths=(0.5, 0.0, -0.5), ties=1.5, left=0.3)
    assert true_points(room) == pytest.approx(np.array(room.strengths) * POINTS_PER_LOG_ODDS, abs=2)


def test_equal_lanes_are_hardly_ever_told_apart():
    room = Room(strengths=(0.0, 0.0, 0.0), left=0.5, prompt_spread=0.4)
    told_apart = [
        seed
        for seed in range(SIMULATIONS)
        if any(pair.better is not None for pair in results(room, seed=seed, resamples=80).pairs)
    ]
    assert len(told_apart) <= SIMULATIONS - AT_LEAST


def test_what_is_decided_is_decided_rightly():
    room = Room(strengths=(0.5, 0.0, -0.5), left=0.4)
    decided = [
        pair for seed in range(30) for pair in results(room, seed=seed).pairs if pair.better is not None
    ]
    assert len(decided) > 30
    assert all(pair.better == pair.first for pair in decided)


def test_ten_thousand_votes_tell_four_lanes_apart():
    votes = Room(strengths=(0.6, 0.2, -0.2, -0.6), voters=250).votes(seed=1)
    assert len(votes) == 10_000
    ranked = standings(columns(votes, 4), votes=len(votes))
    assert [(lane.rank_low, lane.rank_high) for lane in ranked.lanes] == [(1, 1), (2, 2), (3, 3), (4, 4)]


def test_few_votes_decide_nothing():
    votes = [Comparison(prompt, 0, 1, FIRST) for prompt in range(7)] * 10
    few_prompts = standings(columns(votes, 2), votes=len(votes))
    assert few_prompts.pairs[0].better is None
    assert not few_prompts.is_ranked(0)
    few_votes = [Comparison(prompt, 0, 1, FIRST) for prompt in range(19)]
    assert standings(columns(few_votes, 2), votes=19).pairs[0].better is None


def test_a_lane_that_never_loses_has_a_finite_strength_and_an_interval():
    votes = [Comparison(prompt, 0, 1, FIRST) for prompt in range(30)]
    first, second = standings(columns(votes, 2), votes=30).lanes
    assert first.low is not None
    assert 0 < first.low < first.points < first.high
    assert (first.rank_low, first.rank_high, second.rank_low) == (1, 1, 2)


def test_without_preferences_there_are_no_strengths():
    ties = [Comparison(prompt, 0, 1, TIE) for prompt in range(30)]
    for votes in ([], ties):
        lanes = standings(columns(votes, 3), votes=len(votes)).lanes
        assert [lane.points for lane in lanes] == [None, None, None]
    assert standings(columns(ties, 3), votes=30).lanes[0].score_ratio == 0.5


def test_lanes_that_nothing_connects_have_no_strength():
    votes = [Comparison(prompt, 0, 1, prompt % 2 * SECOND) for prompt in range(30)]
    votes += [Comparison(prompt, 3, 2, FIRST) for prompt in range(3)]
    points = [lane.points for lane in standings(columns(votes, 4), votes=33).lanes]
    assert points[:2] == pytest.approx([0, 0])
    assert points[2:] == [None, None]


def test_more_votes_are_needed_for_smaller_differences():
    def further(wins: int) -> int | None:
        outcomes = [FIRST] * wins + [SECOND] * (60 - wins)
        votes = [Comparison(prompt, 0, 1, outcome) for prompt, outcome in enumerate(outcomes)]
        return standings(columns(votes, 2), votes=60).pairs[0].further_votes

    assert further(50) == 0
    assert 0 < further(36) < further(33)
    assert further(30) is None


def test_so_many_further_votes_do_separate_the_lanes():
    def sixty_percent(votes: int):
        outcomes = [Comparison(prompt, 0, 1, FIRST if prompt % 5 < 3 else SECOND) for prompt in range(votes)]
        return standings(columns(outcomes, 2), votes=votes).pairs[0]

    further = sixty_percent(60).further_votes
    assert further
    assert sixty_percent(60 + further).better == 0


def test_order_of_the_two_lanes_does_not_matter():
    votes = Room(strengths=(0.5, 0.0, -0.5)).votes(1)
    turned = [Comparison(v.prompt, v.second, v.first, SECOND - v.outcome) for v in votes]
    assert standings(columns(votes, 3), votes=240) == standings(columns(turned, 3), votes=240)


def test_a_hundred_points_are_64_percent():
    assert win_ratio(100) == pytest.approx(0.64, abs=0.001)


@pytest.mark.parametrize(
    ("answers", "alpha"),
    [
        ([(FIRST, FIRST), (SECOND, SECOND), (TIE, TIE)] * 3, 1.0),
        # By hand: no disagreement is smaller than that of opposite votes, so alpha is below chance.
        ([(FIRST, SECOND)] * 8, pytest.approx(-0.875)),
    ],
)
def test_agreement(answers, alpha):
    votes = [Comparison(item, 0, 1, vote) for item, pair in enumerate(answers) for vote in pair]
    found = agreement(votes)
    assert (found.alpha, found.items, found.votes) == (alpha, len(answers), 2 * len(answers))


def test_agreement_of_random_votes_is_about_zero():
    votes = Room(strengths=(0.0, 0.0), ties=1.0, voters=6).votes(4)
    assert agreement(votes).alpha == pytest.approx(0, abs=0.1)


def test_agreement_needs_shared_items_and_differing_votes():
    assert agreement([Comparison(item, 0, 1, FIRST) for item in range(20)]).alpha is None
    assert agreement([Comparison(item, 0, 1, FIRST) for item in range(20)] * 2).alpha is None


def test_the_control_pairs_are_quiet_however_much_the_voters_agree():
    alarms = 0
    for seed in range(SIMULATIONS):
        better = np.random.default_rng(seed).choice((FIRST, SECOND), size=12)
        # On each prompt the whole room agrees which of the two samples is better.
        votes = [Comparison(prompt, 0, 1, int(better[prompt])) for prompt in range(12) for _ in range(6)]
        alarms += control_result(ControlKind.TWO_SAMPLES, votes).chance < 0.05
    assert alarms <= SIMULATIONS - AT_LEAST


def test_the_control_pairs_notice_that_second_samples_are_worse():
    votes = [Comparison(prompt, 0, 1, FIRST) for prompt in range(12) for _ in range(6)]
    assert control_result(ControlKind.TWO_SAMPLES, votes).chance < 0.01


def test_identical_answers_tell_the_noise():
    votes = [Comparison(prompt, 0, 1, (TIE, TIE, TIE, FIRST)[prompt % 4]) for prompt in range(20)]
    found = control_result(ControlKind.IDENTICAL, votes)
    assert (found.preferred.ratio, found.chance) == (0.25, None)


@pytest.mark.parametrize(("count", "total", "chance"), [(5, 10, 1.0), (10, 10, 2 / 1024), (1000, 2000, 1.0)])
def test_chance_of_a_share(count, total, chance):
    assert Share(count, total).chance == pytest.approx(chance)


def test_a_share_of_nothing_is_unknown():
    assert (Share(0, 0).ratio, Share(0, 0).interval, Share(0, 0).chance) == (None, None, None)
