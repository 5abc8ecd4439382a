"""Results, from votes to figures."""

from dataclasses import replace

import pytest

from core.domain.sessions import ControlKind, Verdict, VotingMode
from core.domain.turns import ErrorInfo, FinishReason
from core.sessions.results import compute_results
from core.sessions.telling import lane_figures, turnout
from tests.unit.sessions.session_samples import answer, answers, open_session, plan, votes_for


def test_a_lane_that_is_always_preferred_is_first():
    session = open_session(plan(*"abc", prompts=15))
    found = compute_results(session, votes_for(session, best=1))
    assert [(lane.rank_low, lane.rank_high) for lane in found.standings.lanes] == [(2, 3), (1, 1), (2, 3)]
    assert found.votes == 4 * 15
    assert found.participants == 4


def test_rankings_count_for_every_two_lanes():
    session = open_session(plan(*"abc", prompts=12, mode=VotingMode.RANKING))
    found = compute_results(session, votes_for(session, best=2))
    assert found.votes == 48
    assert found.standings.comparisons == 48 * 3
    assert found.standings.lanes[2].rank_high == 1


def test_skipped_votes_count_for_nothing():
    session = open_session(plan())
    votes = [replace(vote, verdict=Verdict.SKIPPED, order=()) for vote in votes_for(session, best=0)]
    found = compute_results(session, votes)
    assert (found.votes, found.skipped, found.participants) == (0, 56, 0)
    assert found.standings.lanes[0].points is None


def test_all_bad_is_a_tie_between_the_lanes_and_counted_apart():
    session = open_session(plan())
    votes = [replace(vote, verdict=Verdict.ALL_BAD, order=()) for vote in votes_for(session, best=0)]
    found = compute_results(session, votes)
    assert found.all_bad.ratio == 1
    assert found.standings.pairs[0].ties == 56


def test_a_room_that_votes_left_shows_in_the_bias_and_not_in_the_strengths():
    session = open_session(plan(*"abc", prompts=15))
    found = compute_results(session, votes_for(session, best=9, left=True))
    assert found.left.ratio == 1
    assert found.left.chance < 0.001
    assert not any(found.standings.is_ranked(lane) for lane in range(3))


def test_a_balanced_room_has_no_bias():
    session = open_session(plan(prompts=20))
    left = compute_results(session, votes_for(session, best=0)).left
    assert left.ratio == 0.5


def test_categories_and_languages():
    session = open_session(plan(prompts=24))
    votes = [
        vote
        if session.plan.prompts.prompts[session.items[vote.item].prompt].category == "code"
        else replace(vote, verdict=Verdict.TIE, order=())
        for vote in votes_for(session, best=0)
    ]
    found = compute_results(session, votes)
    scores = {(score.group, score.lane): score.score_ratio for score in found.categories}
    assert scores == {("code", 0): 1.0, ("code", 1): 0.0, ("writing", 0): 0.5, ("writing", 1): 0.5}
    assert {score.group for score in found.languages} == {"en", "zh"}
    assert all(score.low <= score.score_ratio <= score.high for score in found.languages)


def test_without_votes_everything_is_unknown():
    session = open_session(plan())
    found = compute_results(session, [])
    assert (found.votes, found.median_s, found.deploy, found.agreement.alpha) == (0, None, None, None)
    assert {score.score_ratio for score in found.categories} == {None}


def test_controls_are_kept_out_of_the_standings():
    given = [*answers(plan(prompts=20)), answer(0, 0, 1), answer(5, 1, 1)]
    session = open_session(plan(prompts=20, control_ratio=0.2), tuple(given))
    found = compute_results(session, votes_for(session, best=0, left=True))
    kinds = {control.kind for control in found.controls}
    assert ControlKind.IDENTICAL in kinds
    assert all(control.preferred.ratio == 1 for control in found.controls)
    assert found.standings.comparisons == found.votes == 4 * 16


def test_who_changes_their_mind():
    session = open_session(plan())
    votes = votes_for(session, best=0)
    votes[0] = replace(votes[0], deploy=Verdict.PREFERRED, deploy_order=tuple(reversed(votes[0].order)))
    votes[1] = replace(votes[1], deploy=Verdict.PREFERRED, deploy_order=votes[1].order)
    votes[2] = replace(votes[2], deploy=Verdict.TIE)
    deploy = compute_results(session, votes).deploy
    assert (deploy.changed.count, deploy.changed.total) == (2, 3)
    assert (deploy.first_wins, deploy.wins) == ((3, 0), (1, 1))


def test_reasons_are_counted_for_the_preferred_lane():
    session = open_session(plan())
    votes = [replace(vote, reasons=("correct",)) for vote in votes_for(session, best=1)]
    assert [dict(count) for count in compute_results(session, votes).reasons] == [{}, {"correct": 56}]


def test_lane_figures_are_medians_of_what_did_not_fail():
    session = open_session(plan())
    failed = answer(3, 0, finish_reason=FinishReason.ERROR, error=ErrorInfo("crash", "It crashed"))
    given = [answer(0, 0, speed=20), answer(1, 0, speed=40), answer(2, 0, speed=50), failed, answer(0, 1)]
    first, second = lane_figures(session, given)
    assert (first.answers, first.failed, second.answers) == (3, 1, 1)
    assert first.decode_tok_per_s == pytest.approx(40, rel=1e-6)
    assert first.ttft_s == pytest.approx(0.2)
    assert (first.energy_j_per_token, first.peak_memory_bytes, first.on_gpu) == (2.0, 2**30, True)


def test_a_lane_without_answers_has_no_figures():
    figures = lane_figures(open_session(plan()), [])[0]
    assert (figures.answers, figures.ttft_s, figures.peak_memory_bytes) == (0, None, None)


def test_the_turnout_tells_the_median_time_of_a_vote():
    session = open_session(plan())
    first, second, third, *_rest = votes_for(session, best=0)
    votes = [replace(first, took_s=4.0), replace(second, took_s=20.0), replace(third, took_s=90.0)]
    assert turnout(compute_results(session, votes))[-1] == "median time per vote: 20 s"
    assert not any("time per vote" in fact for fact in turnout(compute_results(session, [])))
