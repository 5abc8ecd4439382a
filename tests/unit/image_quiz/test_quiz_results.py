from dataclasses import replace

import pytest

from core.domain.turns import FinishReason
from core.image_quiz.results import Verdict, scores, verdict
from tests.unit.image_quiz.quiz_samples import plan, question, record, run


def test_right_wrong_and_no_answer_are_counted_apart():
    quiz = plan(question("1?", "red"), question("2?", "blue"), question("3?", "green"))
    one, two = quiz.lanes
    made = run(
        quiz,
        (record(one, "Red."), record(two, "red")),
        (record(one, "green"), record(two, "red")),
        (record(one, failed=True), record(two, "green")),
    )
    first, second = scores(made)
    assert (first.lane, first.right, first.wrong, first.no_answer) == ("one", 1, 1, 1)
    assert first.accuracy_ratio == 0.5
    assert (second.right, second.wrong, second.no_answer) == (2, 1, 0)


def test_latency_is_the_median_of_what_was_answered():
    quiz = plan(*(question(f"{place}?", "red") for place in range(4)))
    one, two = quiz.lanes
    answered = [
        (record(one, "red", ttft_ms=ms), record(two, failed=True, ttft_ms=ms)) for ms in (10, 40, 20, 90)
    ]
    first, second = scores(run(quiz, *answered))
    assert first.ttft_p50_s == pytest.approx(0.030)
    assert first.e2e_p50_s == pytest.approx(0.050)
    assert first.timed == 4
    assert (second.ttft_p50_s, second.e2e_p50_s, second.timed) == (None, None, 0)


def test_questions_without_expected_answers_are_not_graded():
    quiz = plan(question("What is this?"))
    made = run(quiz, tuple(record(lane, "a cat") for lane in quiz.lanes))
    score = scores(made)[0]
    assert not made.graded
    assert (score.right, score.wrong, score.not_graded) == (0, 0, 1)
    assert score.accuracy_ratio is None
    assert score.interval is None
    assert score.timed == 1


def test_a_stopped_answer_is_no_answer_and_a_cut_one_is_graded():
    asked = question("1?", "red")
    stopped = replace(record(plan(asked).lanes[0], "red"), finish_reason=FinishReason.CANCELLED)
    assert verdict(stopped, asked) is Verdict.NO_ANSWER
    assert verdict(replace(stopped, finish_reason=FinishReason.LENGTH), asked) is Verdict.RIGHT
