import sqlite3
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import Engine, Pool, event

from core.domain.conversation import Exchange, Message, Role, messages_for
from core.domain.timing import Timing
from core.domain.turns import FinishReason, Growth, Machine, Phase, TurnPlan, TurnRecord, joined
from core.errors import StoreError
from core.store.turns import INTERRUPTED, Store
from tests.unit.store.store_samples import (
    HF,
    IMAGE,
    MACHINE,
    QUESTION,
    REMOTE,
    a_full_record,
    a_plan,
    a_record,
    full_plan,
)

_START = datetime(2026, 1, 1, tzinfo=UTC)


def test_a_turn_with_every_field_comes_back_as_it_was(store: Store) -> None:
    plan = full_plan()
    store.save_turn(plan, MACHINE)
    answers = (a_full_record(plan, 0), a_full_record(plan, 1))
    for record in answers:
        store.save_request(record)
    assert store.turn(plan.id) == TurnRecord(
        id=plan.id,
        conversation_id=plan.conversation_id,
        owner=plan.owner,
        created_at=plan.created_at,
        prompt=plan.prompt,
        system_prompt=plan.system_prompt,
        mode=plan.mode,
        sampling=plan.sampling,
        requests=answers,
        machine=MACHINE,
        replaces=plan.replaces,
        images=plan.images,
    )


def test_what_is_unknown_stays_none(store: Store) -> None:
    plan = a_plan(HF, messages=())
    store.save_turn(plan, None)
    record = a_record(plan, timing=Timing(sent_ns=1), phase=Phase.SENT)
    store.save_request(record)
    turn = store.turn(plan.id)
    assert turn is not None
    assert (turn.machine, turn.replaces, turn.requests) == (None, None, (record,))


def test_a_new_turn_has_its_requests_queued_in_the_planned_order(store: Store) -> None:
    lanes = [replace(HF, name=name) for name in ("z", "a", "m")]
    plan = a_plan(*lanes)
    store.save_turn(plan, Machine(host="h", platform="p", python="3"))
    turn = store.turn(plan.id)
    assert turn is not None
    assert turn.requests == tuple(a_record(plan, position) for position in range(3))
    assert not turn.done


def test_the_last_save_of_a_request_wins(store: Store) -> None:
    plan = a_plan(HF)
    store.save_turn(plan, None)
    store.save_request(a_record(plan, phase=Phase.STREAMING, text="Par"))
    assert _only_request(store, plan).text == "Par"
    final = a_record(plan, phase=Phase.DONE, text="Paris", finish_reason=FinishReason.STOP)
    store.save_request(final)
    assert _only_request(store, plan) == final


def test_saving_a_turn_again_changes_nothing(store: Store) -> None:
    plan = a_plan(HF)
    store.save_turn(plan, MACHINE)
    store.save_request(a_full_record(plan))
    before = store.turn(plan.id)
    store.save_turn(plan, None)
    assert store.turn(plan.id) == before


def test_a_request_outside_the_plan_is_added_at_the_end(store: Store) -> None:
    plan = a_plan(HF)
    store.save_turn(plan, None)
    extra = replace(a_record(plan), id="extra", lane=REMOTE, text="late")
    store.save_request(extra)
    turn = store.turn(plan.id)
    assert turn is not None
    assert turn.requests == (a_record(plan), extra)


def test_a_request_without_its_turn_is_an_error_and_can_be_made_good(store: Store) -> None:
    plan = a_plan(HF)
    with pytest.raises(StoreError) as caught:
        store.save_request(a_full_record(plan))
    assert caught.value.code == "store-unknown-turn"
    store.save_turn(plan, None)
    store.save_request(a_full_record(plan))
    assert _only_request(store, plan) == a_full_record(plan)


def test_an_unknown_turn_or_conversation_is_empty(store: Store) -> None:
    assert store.turn("none") is None
    assert store.conversation("none") == ()
    assert store.conversations() == ()


def test_any_text_can_be_stored(store: Store) -> None:
    plan = a_plan(HF, prompt="caf\udce9", messages=(Message(Role.USER, "caf\udce9"),))
    store.save_turn(plan, None)
    store.save_request(a_record(plan, text="a\x00b 𝒳 是", reasoning="\x00"))
    turn = store.turn(plan.id)
    assert turn is not None
    assert turn.prompt == "caf\ufffd"
    assert turn.requests[0].messages == (Message(Role.USER, "caf\ufffd"),)
    assert turn.requests[0].text in ("a\x00b 𝒳 是", "a\ufffdb 𝒳 是")


def test_a_conversation_is_its_turns_oldest_first_with_each_lanes_own_history(store: Store) -> None:
    said: dict[str, list[Exchange]] = {"hf": [], "remote": []}
    expected = []
    for number in range(4):
        plan = a_plan(prompt=f"prompt {number}", created_at=_START + timedelta(minutes=number))
        plan = replace(
            plan,
            requests=tuple(
                replace(
                    request,
                    messages=messages_for(plan.prompt, system="S", earlier=said[request.lane.name]),
                )
                for request in plan.requests
            ),
        )
        store.save_turn(plan, MACHINE)
        for position, request in enumerate(plan.requests):
            record = replace(a_full_record(plan, position), text=f"{request.lane.name} {number}")
            store.save_request(record)
            said[request.lane.name].append(Exchange(plan.prompt, record.text))
            expected.append(record)
    store.save_turn(a_plan(conversation_id="another"), None)
    turns = store.conversation("talk")
    assert [turn.prompt for turn in turns] == [f"prompt {number}" for number in range(4)]
    assert [request for turn in turns for request in turn.requests] == expected


def test_the_same_words_with_other_images_are_another_message(store: Store) -> None:
    other = replace(IMAGE, sha256="cd" * 32)
    plans = [
        a_plan(HF, conversation_id=str(number), messages=messages_for("What is it?", images=images))
        for number, images in enumerate([(), (IMAGE,), (other,), (IMAGE, other), (other, IMAGE)])
    ]
    for plan in plans:
        store.save_turn(plan, None)
    for plan in plans:
        assert _only_request(store, plan).messages == plan.requests[0].messages


def test_replaced_turns_are_left_out_of_the_conversation_but_kept(store: Store) -> None:
    first = a_plan(created_at=_START)
    regenerated = a_plan(created_at=_START + timedelta(minutes=1), replaces=first.id)
    edited = a_plan(created_at=_START + timedelta(minutes=2), replaces=regenerated.id)
    other = a_plan(created_at=_START - timedelta(minutes=1))
    for plan in (first, regenerated, edited, other):
        store.save_turn(plan, None)
    assert [turn.id for turn in store.conversation("talk")] == [other.id, edited.id]
    assert [store.turn(plan.id) is not None for plan in (first, regenerated)] == [True, True]


def test_conversations_are_listed_newest_first(store: Store) -> None:
    def ask(conversation: str, minute: int, *lanes: str, **changes: object) -> TurnPlan:
        plan = a_plan(
            *(replace(HF, name=name) for name in lanes),
            conversation_id=conversation,
            created_at=_START + timedelta(minutes=minute),
            **changes,
        )
        store.save_turn(plan, None)
        return plan

    first = ask("old", 0, "b", "a", prompt="Typo?")
    ask("new", 1, "x", prompt="  Two\nlines " + "long " * 100)
    ask("old", 2, "b", "a", prompt="First?", replaces=first.id)
    ask("old", 3, "c", "a", prompt="Second?")
    newest = store.conversations()
    assert [(talk.id, talk.title[:9], talk.turns, talk.lanes) for talk in newest] == [
        ("old", "First?", 2, ("b", "a", "c")),
        ("new", "Two lines", 1, ("x",)),
    ]
    assert newest[0].updated_at == _START + timedelta(minutes=3)
    assert len(newest[1].title) <= 120
    assert [talk.id for talk in store.conversations(limit=1)] == ["old"]


def test_turns_of_the_same_moment_are_one_conversation_in_the_list(store: Store) -> None:
    for conversation in ("b", "a", "a"):
        store.save_turn(a_plan(HF, conversation_id=conversation, created_at=_START), None)
    assert [(talk.id, talk.turns) for talk in store.conversations()] == [("a", 2), ("b", 1)]


def test_listing_a_few_conversations_reads_no_more_of_a_large_store(sqlite_url: str) -> None:
    store = Store(sqlite_url)
    store.open()
    steps = [0]

    def count() -> None:
        steps[-1] += 1

    def watch(connection: sqlite3.Connection, *_: object) -> None:
        connection.set_progress_handler(count, 1)

    def list_with(more: int) -> None:
        for number in range(more):
            store.save_turn(a_plan(HF, conversation_id=f"talk {number}", messages=()), None)
        steps.append(0)
        assert len(store.conversations(limit=5, with_images=False)) == 5

    event.listen(Pool, "checkout", watch)
    try:
        list_with(15)
        few = steps[-1]
        list_with(60)
    finally:
        event.remove(Pool, "checkout", watch)
        store.close()
    assert 0 < steps[-1] < 1.5 * few


def test_the_same_lane_under_other_settings_is_another_one(store: Store) -> None:
    before = a_plan(HF)
    after = a_plan(replace(HF, settings=replace(HF.settings, dtype="float32")))
    for plan in (before, after):
        store.save_turn(plan, None)
    assert _only_request(store, before).lane.settings.dtype == "bfloat16"
    assert _only_request(store, after).lane.settings.dtype == "float32"


def test_requests_of_a_dead_meter_are_ended_with_what_they_had(store: Store) -> None:
    plan = a_plan()
    store.save_turn(plan, None)
    partial = a_record(plan, 0, phase=Phase.STREAMING, text="Par", timing=Timing(sent_ns=3))
    store.save_request(partial)
    store.save_request(a_full_record(plan, 1))
    assert store.interrupt_unfinished(older_than_s=0) == 1
    turn = store.turn(plan.id)
    assert turn is not None
    assert turn.requests == (
        replace(partial, phase=Phase.DONE, finish_reason=FinishReason.ERROR, error=INTERRUPTED),
        a_full_record(plan, 1),
    )
    assert store.interrupt_unfinished(older_than_s=0) == 0


def test_requests_that_may_still_run_are_left_alone(store: Store) -> None:
    recent, ours = a_plan(HF), a_plan(HF)
    store.save_turn(recent, None)
    assert store.interrupt_unfinished() == 0
    store.save_turn(ours, None)
    assert store.interrupt_unfinished(exclude={ours.id}, older_than_s=0) == 1
    assert _only_request(store, ours) == a_record(ours)
    assert _only_request(store, recent).error == INTERRUPTED


def test_a_request_that_was_ended_wrongly_recovers(store: Store) -> None:
    plan = a_plan(HF)
    store.save_turn(plan, None)
    store.interrupt_unfinished(older_than_s=0)
    alive = a_record(plan, phase=Phase.STREAMING, text="still here")
    store.save_request(alive)
    assert _only_request(store, plan) == alive


def test_a_store_opens_itself_also_after_close(database_url: str) -> None:
    store = Store(database_url)
    plan = a_plan(HF)
    store.save_turn(plan, None)
    store.close()
    assert _only_request(store, plan) == a_record(plan)
    store.close()


def test_threads_share_a_store(store: Store) -> None:
    def work(number: int) -> TurnPlan:
        plan = a_plan(HF, conversation_id=f"talk {number % 3}", messages=(QUESTION,) * 5)
        store.save_turn(plan, MACHINE)
        store.save_request(a_full_record(plan))
        store.conversations()
        return plan

    with ThreadPoolExecutor(8) as pool:
        plans = list(pool.map(work, range(24)))
    assert [_only_request(store, plan) for plan in plans] == [a_full_record(plan) for plan in plans]


def _only_request(store: Store, plan: TurnPlan):
    turn = store.turn(plan.id)
    assert turn is not None
    (request,) = turn.requests
    return request


def _growths(plan: TurnPlan, count: int, chars: int) -> list[Growth]:
    """An answer of `count` pieces, one chunk each."""
    return [
        Growth(
            record=a_record(
                plan,
                phase=Phase.STREAMING,
                text=chr(97 + number % 26) * chars,
                timing=Timing(sent_ns=1, chunk_ns=(2 + number,), content_chars=(chars,)),
            ),
            first_chunk=number,
        )
        for number in range(count)
    ]


def test_a_growing_answer_is_read_back_whole(store: Store) -> None:
    plan = a_plan(HF)
    store.save_turn(plan, None)
    pieces = _growths(plan, 5, 3)
    store.save_growths([Growth(record=a_record(plan, phase=Phase.SENT), first_chunk=0)])
    for piece in (*pieces[:3], pieces[2], *pieces[3:]):  # one of them twice: it was not known to be stored
        store.save_growths([piece])
    assert _only_request(store, plan) == joined(pieces).record
    store.save_request(a_full_record(plan))
    assert _only_request(store, plan) == a_full_record(plan)


def test_what_is_written_grows_with_the_text_and_not_with_its_square(store: Store) -> None:
    written = 0

    def note(_, __, ___, parameters: object, *____) -> None:
        nonlocal written
        for row in parameters if isinstance(parameters, list) else [parameters]:
            values = row.values() if isinstance(row, dict) else row
            written += sum(len(value) for value in values if isinstance(value, str | bytes))

    store.open()
    event.listen(Engine, "before_cursor_execute", note)
    totals = []
    try:
        for count in (50, 200):
            plan = a_plan(HF)
            store.save_turn(plan, None)
            written = 0
            for piece in _growths(plan, count, 1000):
                store.save_growths([piece])
            totals.append(written)
    finally:
        event.remove(Engine, "before_cursor_execute", note)
    assert totals[0] < 2 * 50 * 1000
    assert totals[1] < 2 * 200 * 1000


def test_a_growing_answer_of_a_dead_meter_is_put_together(store: Store) -> None:
    plan = a_plan(HF)
    store.save_turn(plan, None)
    pieces = _growths(plan, 3, 2)
    for piece in pieces:
        store.save_growths([piece])
    assert store.interrupt_unfinished(older_than_s=0) == 1
    ended = replace(
        joined(pieces).record, phase=Phase.DONE, finish_reason=FinishReason.ERROR, error=INTERRUPTED
    )
    assert _only_request(store, plan) == ended
    store.save_growths([Growth(record=replace(ended, text="", timing=None), first_chunk=3)])
    assert _only_request(store, plan) == ended


def test_growths_of_a_deleted_turn_are_left_out_and_the_others_kept(store: Store) -> None:
    plan, deleted = a_plan(HF), a_plan(HF)
    store.save_turn(plan, None)
    of_deleted, of_plan = _growths(deleted, 1, 1), _growths(plan, 1, 4)
    store.save_growths([*of_deleted, *of_plan])
    assert store.turn(deleted.id) is None
    assert _only_request(store, plan) == of_plan[0].record
