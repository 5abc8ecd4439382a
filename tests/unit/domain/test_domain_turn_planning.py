from dataclasses import replace
from datetime import timedelta

import pytest

from core.domain.conversation import Role, Sampling, StoredImage
from core.domain.specs import EndpointSpec, EngineKind, LaneSpec
from core.domain.turn_planning import ChatSettings, merge_turns, plan_turn, planned_record
from core.domain.turns import FinishReason, Mode, Phase, TurnRecord
from core.errors import InputError

LANES = tuple(
    LaneSpec(name=name, kind=EngineKind.ENDPOINT, endpoint=EndpointSpec(url="http://host/v1"))
    for name in ("a", "b", "c", "d", "e", "f", "g")
)

IMAGE = StoredImage(sha256="ab" * 32, media_type="image/png", width_px=64, height_px=48, size_bytes=900)


def settings(*lanes: LaneSpec, **changes) -> ChatSettings:
    return ChatSettings(lanes=lanes, mode=Mode.TOGETHER, sampling=Sampling(), **changes)


def answered(prompt: str, *answers: str, turns=(), reason=FinishReason.STOP, **changes) -> TurnRecord:
    """A finished turn of the lanes a, b … with these answers, after `turns`."""
    plan = plan_turn(prompt, settings(*LANES[: len(answers)]), conversation_id="c", turns=turns, **changes)
    turn = planned_record(plan)
    requests = tuple(
        replace(request, phase=Phase.DONE, text=text, finish_reason=reason)
        for request, text in zip(turn.requests, answers, strict=True)
    )
    later = timedelta(seconds=len(turns))
    return replace(turn, requests=requests, created_at=turn.created_at + later)


def contents(plan, lane: int) -> list[str]:
    return [message.content for message in plan.requests[lane].messages]


def test_each_lane_sees_its_own_answers():
    first = answered("1?", "a1", "b1")
    plan = plan_turn("2?", settings(*LANES[:2]), conversation_id="c", turns=[first])
    assert contents(plan, 0) == ["1?", "a1", "2?"]
    assert contents(plan, 1) == ["1?", "b1", "2?"]


def test_a_lane_that_was_not_asked_or_failed_has_no_part_in_that_turn():
    first = answered("1?", "a1")
    second = answered("2?", "half of a2", turns=[first], reason=FinishReason.ERROR)
    plan = plan_turn("3?", settings(*LANES[:2]), conversation_id="c", turns=[first, second])
    assert contents(plan, 0) == ["1?", "a1", "3?"]
    assert contents(plan, 1) == ["3?"]


def test_a_stopped_answer_stays_in_the_history():
    first = answered("1?", "a", reason=FinishReason.CANCELLED)
    plan = plan_turn("2?", settings(LANES[0]), conversation_id="c", turns=[first])
    assert contents(plan, 0) == ["1?", "a", "2?"]


def test_the_system_prompt_comes_first():
    plan = plan_turn("1?", settings(LANES[0], system_prompt="Be brief."), conversation_id="c", turns=[])
    assert plan.requests[0].messages[0].role is Role.SYSTEM
    assert plan.system_prompt == "Be brief."


def test_a_turn_in_the_place_of_another_sees_only_what_came_before():
    first = answered("1?", "a1")
    second = answered("2?", "a2", turns=[first])
    plan = plan_turn("2!", settings(LANES[0]), conversation_id="c", turns=[first, second], replaces=second.id)
    assert contents(plan, 0) == ["1?", "a1", "2!"]
    assert plan.replaces == second.id


@pytest.mark.parametrize(
    ("lanes", "problem"), [((), "No lane is selected"), (LANES, r"Too many lanes \(7\)")]
)
def test_none_or_more_than_six_lanes_are_refused(lanes, problem):
    with pytest.raises(InputError, match=problem):
        plan_turn("1?", settings(*lanes), conversation_id="c", turns=[])


def test_an_empty_prompt_is_refused():
    with pytest.raises(InputError, match="empty"):
        plan_turn(" \n", settings(LANES[0]), conversation_id="c", turns=[])


def test_the_plan_and_its_record_agree():
    plan = plan_turn("1?", settings(*LANES[:2]), conversation_id="c", turns=[])
    record = planned_record(plan)
    assert (record.id, record.mode, record.sampling) == (plan.id, plan.mode, plan.sampling)
    assert [r.id for r in record.requests] == [r.id for r in plan.requests]
    assert [r.messages for r in record.requests] == [r.messages for r in plan.requests]
    assert not record.done


def test_merging_keeps_a_finished_record_and_takes_the_later_view_of_a_running_one():
    done = answered("1?", "a1")
    running = replace(done, requests=(replace(done.requests[0], phase=Phase.STREAMING, text="a"),))
    further = replace(running, requests=(replace(running.requests[0], text="ab"),))
    assert merge_turns([done], [running]) == (done,)
    assert merge_turns([running], [done]) == (done,)
    assert merge_turns([running], [further]) == (further,)


def test_merging_leaves_out_what_was_replaced_and_orders_by_time():
    first = answered("1?", "a1")
    second = answered("2?", "a2", turns=[first])
    third = answered("2!", "a3", turns=[first, second], replaces=second.id)
    assert merge_turns([third, second], [first]) == (first, third)


def test_images_go_with_the_prompt_and_stay_in_every_lanes_history():
    first = answered("1?", "a1", "b1", images=(IMAGE,))
    plan = plan_turn("2?", settings(*LANES[:2]), conversation_id="c", turns=[first])
    assert plan.images == ()
    for request in plan.requests:
        assert [message.images for message in request.messages] == [(IMAGE,), (), ()]
    assert planned_record(replace(plan, images=(IMAGE,))).images == (IMAGE,)


def test_more_images_than_a_turn_takes_are_refused():
    with pytest.raises(InputError, match=r"Too many images \(9\)"):
        plan_turn("1?", settings(LANES[0]), conversation_id="c", turns=[], images=(IMAGE,) * 9)
