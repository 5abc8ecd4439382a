from dataclasses import replace

import pytest

from core.codec import decode, encode
from core.domain.conversation import Role
from core.domain.turns import Mode
from core.errors import InputError
from core.image_quiz.plan import MOST_QUESTIONS, QuizPlan, one_question
from tests.unit.image_quiz.quiz_samples import IMAGE, lane, plan, question


def test_each_question_is_a_turn_of_its_own_for_all_lanes():
    quiz = plan(question("1?", "a"), question("2?", "b"), system_prompt="Be brief.", mode=Mode.TOGETHER)
    turn = quiz.turn(1)
    assert (turn.prompt, turn.images, turn.mode) == ("2?", (IMAGE,), Mode.TOGETHER)
    assert [request.lane.name for request in turn.requests] == ["one", "two"]
    for request in turn.requests:
        assert [message.role for message in request.messages] == [Role.SYSTEM, Role.USER]
        assert request.messages[-1].images == (IMAGE,)
        assert request.messages[-1].content == "2?"


def test_a_plan_survives_json():
    quiz = plan(question("1?", "a"))
    assert decode(QuizPlan, encode(quiz)) == quiz


@pytest.mark.parametrize(
    ("number", "problem"), [(0, "There are no questions"), (MOST_QUESTIONS + 1, "Too many questions")]
)
def test_none_or_too_many_questions_are_refused(number, problem):
    with pytest.raises(InputError, match=problem):
        plan(*[question("1?")] * number)


def test_no_lane_or_an_empty_question_is_refused():
    with pytest.raises(InputError, match="No lane"):
        replace(plan(question("1?")), lanes=())
    with pytest.raises(InputError, match="empty"):
        plan(question("  "))


def test_a_lane_that_takes_no_images_is_refused_by_its_name():
    quiz = plan(question("1?"), lanes=(lane("one"), lane("blind", vision=False)))
    with pytest.raises(InputError, match="blind: ") as refused:
        quiz.check_sendable()
    assert refused.value.code == "text-only"


def test_a_quiz_is_read_again_when_its_lane_takes_no_images_any_more():
    quiz = plan(question("1?", "a"), lanes=(lane("blind", vision=False),))
    assert decode(QuizPlan, encode(quiz)) == quiz


def test_one_question_is_asked_of_every_image_with_the_same_answers():
    other = replace(IMAGE, sha256="cd" * 32)
    asked = one_question("How many?", [IMAGE, other], ["3", " three ", ""])
    assert [each.image for each in asked] == [IMAGE, other]
    assert {each.answers for each in asked} == {("3", "three")}
