"""Turns are planned from settings and history; answers cut into pieces are joined again."""

from dataclasses import replace
from datetime import timedelta
from itertools import pairwise

import pytest

from core.domain.conversation import Role, Sampling, StoredImage
from core.domain.specs import EndpointSpec, EngineKind, LaneSpec
from core.domain.timing import Timing
from core.domain.turns import (
    ChatSettings,
    FinishReason,
    Growth,
    Mode,
    Phase,
    TurnRecord,
    grown,
    joined,
    merge_turns,
    plan_turn,
    planned_record,
)
from core.errors import InputError
from tests.unit.store.store_samples import a_plan, a_record

WORDS = ("", "Par", "is ", "是", "!", "")
THOUGHTS = ("hm", "m", "", "", "", "")
PLAN = a_plan()


def whole(*, reasons=True, names_tokens=True, **changes):
    """A record of an answer of six chunks."""
    timing = Timing(
        sent_ns=100,
        first_event_ns=110,
        chunk_ns=tuple(range(120, 180, 10)),
        content_chars=tuple(map(len, WORDS)),
        reasoning_chars=tuple(map(len, THOUGHTS)) if reasons else (),
        chunk_tokens=(1, 1, 2, 1, 1, 0) if names_tokens else None,
        output_tokens=6,
    )
    text, thoughts = "".join(WORDS), "".join(THOUGHTS) if reasons else ""
    return a_record(PLAN, phase=Phase.STREAMING, text=text, reasoning=thoughts, timing=timing, **changes)


def cut(record, *places):
    """The growths of a record that is looked at after each of these numbers of chunks."""
    timing = record.timing
    pieces = []
    for start, end in pairwise((0, *places, len(WORDS))):
        piece = replace(
            timing,
            chunk_ns=timing.chunk_ns[start:end],
            content_chars=timing.content_chars[start:end],
            reasoning_chars=timing.reasoning_chars[start:end],
            chunk_tokens=timing.chunk_tokens and timing.chunk_tokens[start:end],
        )
        thoughts = "".join(THOUGHTS[start:end]) if timing.reasoning_chars else ""
        said = replace(record, text="".join(WORDS[start:end]), reasoning=thoughts, timing=piece)
        pieces.append(Growth(record=said, first_chunk=start))
    return pieces


@pytest.mark.parametrize("places", [(), (0,), (0, 0), (1,), (3, 3), (2, 5), (1, 2, 3, 4, 5), (6,), (6, 6)])
@pytest.mark.parametrize("reasons", [True, False])
@pytest.mark.parametrize("names_tokens", [True, False])
def test_pieces_make_the_whole_again(places, reasons, names_tokens):
    record = whole(reasons=reasons, names_tokens=names_tokens)
    pieces = cut(record, *places)
    bare = a_record(PLAN, phase=Phase.STREAMING)
    assert grown(bare, pieces) == record
    assert joined(pieces) == Growth(record=record, first_chunk=0)
    assert [piece.next_chunk for piece in pieces] == [*places, len(WORDS)]


def test_pieces_of_pieces_make_the_whole_again():
    record = whole()
    first, *rest = cut(record, 1, 2, 4)
    assert joined([first, joined(rest)]) == Growth(record=record, first_chunk=0)
    assert joined(rest).first_chunk == 1


def test_reasoning_that_begins_late_counts_zero_before():
    spoken = Timing(sent_ns=1, chunk_ns=(2, 3), content_chars=(1, 1))
    thought = Timing(sent_ns=1, chunk_ns=(4,), content_chars=(0,), reasoning_chars=(5,))
    timing = grown(
        a_record(PLAN),
        [
            Growth(record=a_record(PLAN, timing=spoken), first_chunk=0),
            Growth(record=a_record(PLAN, timing=thought), first_chunk=2),
        ],
    ).timing
    assert timing.reasoning_chars == (0, 0, 5)


def test_a_request_that_was_not_sent_has_no_chunks():
    growth = Growth(record=a_record(PLAN), first_chunk=0)
    assert (growth.next_chunk, grown(a_record(PLAN), [growth])) == (0, a_record(PLAN))


def test_what_else_is_known_is_the_newest():
    pieces = [
        Growth(record=a_record(PLAN, phase=Phase.SENT), first_chunk=0),
        Growth(record=a_record(PLAN, phase=Phase.STREAMING, prompt_tokens=9), first_chunk=0),
    ]
    assert joined(pieces).record == a_record(PLAN, phase=Phase.STREAMING, prompt_tokens=9)


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
