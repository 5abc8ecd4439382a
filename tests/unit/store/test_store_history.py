from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from test_store_runs_bench import RUN

from core.domain.runs import BenchRequest, HistoryFilter, LaneFacts, LaneSummary, RunKind, RunState, Summary
from core.domain.timing import Timing
from core.domain.turns import FinishReason, Phase, utc_now
from core.store.history import History, Purged
from core.store.runs import BenchRuns
from tests.unit.store.store_samples import HF, IMAGE, MACHINE, REMOTE, a_full_record, a_plan, a_record

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.fixture
def runs(database_url, store):
    runs = BenchRuns(database_url)
    yield runs
    runs.close()


@pytest.fixture
def history(database_url, store):
    history = History(database_url)
    yield history
    history.close()


def turn(store, hour, prompt="What is the capital?", *lanes):
    plan = a_plan(*lanes, prompt=prompt, created_at=NOON + timedelta(hours=hour))
    store.save_turn(plan, MACHINE)
    return plan


def bench(runs, hour, title="quick look", lane=HF, **changes):
    run_id = changes.pop("id", f"run{hour}")
    facts = (LaneFacts(lane=lane),)
    created_at = NOON + timedelta(hours=hour)
    runs.save(replace(RUN, id=run_id, created_at=created_at, title=title, lanes=facts, **changes))
    return run_id


def ids(entries):
    return [entry.id for entry in entries]


def test_turns_and_load_tests_are_one_list_newest_first(store, runs, history):
    first, last = turn(store, 1), turn(store, 3)
    middle = bench(runs, 2)
    assert ids(history.entries()) == [last.id, middle, first.id]
    assert ids(history.entries(limit=1, offset=1)) == [middle]
    assert history.count() == 3


def test_an_entry_tells_what_it_is(store, runs, history):
    turn(store, 1, "What is\nthe   capital?")
    bench(runs, 2, lane=REMOTE, state=RunState.DONE)
    test, asked = history.entries()
    assert (asked.kind, asked.title, asked.lanes) == (RunKind.CHAT, "What is the capital?", ("hf", "remote"))
    assert (asked.models, asked.host, asked.state) == (("smol",), "lab", "running")
    assert (test.kind, test.title, test.state, test.lanes) == (
        RunKind.BENCH,
        "quick look",
        "done",
        ("remote",),
    )


def test_a_turn_with_images_is_told_from_one_without_also_when_an_earlier_turn_brought_them(
    store, runs, history
):
    for hour, images, talk in ((1, (), "seen"), (2, (IMAGE,), "seen"), (3, (), "seen"), (4, (), "said")):
        at = NOON + timedelta(hours=hour)
        store.save_turn(a_plan(images=images, conversation_id=talk, created_at=at), MACHINE)
    bench(runs, 5)
    assert [entry.with_images for entry in history.entries()] == [False, False, True, True, False]


def test_a_turns_state_follows_from_its_answers(store, history):
    plan = turn(store, 1)
    store.save_request(a_record(plan, 0, phase=Phase.DONE, finish_reason=FinishReason.STOP))
    assert history.entries()[0].state == "running"
    store.save_request(a_record(plan, 1, phase=Phase.DONE, finish_reason=FinishReason.STOP))
    assert history.entries()[0].state == "done"
    store.save_request(a_full_record(plan, 1))
    assert history.entries()[0].state == "failed"


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        (HistoryFilter(kind=RunKind.CHAT), ["story", "capital"]),
        (HistoryFilter(kind=RunKind.BENCH), ["night", "quick"]),
        (HistoryFilter(text="CAPITAL"), ["capital"]),
        (HistoryFilter(text="100%"), []),
        (HistoryFilter(lane="remote"), ["night", "story"]),
        (HistoryFilter(model="smol"), ["quick", "capital"]),
        (HistoryFilter(host="lab"), ["night", "story", "quick", "capital"]),
        (HistoryFilter(host="desk"), []),
        (HistoryFilter(since=NOON + timedelta(hours=3)), ["night", "story"]),
        (HistoryFilter(until=NOON + timedelta(hours=2)), ["capital"]),
        (HistoryFilter(tag="keep"), ["quick"]),
        (HistoryFilter(text="noted"), ["quick"]),
    ],
)
def test_filters(store, runs, history, wanted, expected):
    names = {
        turn(store, 1, "What is the capital?", HF).id: "capital",
        bench(runs, 2): "quick",
        turn(store, 3, "Tell a story", REMOTE).id: "story",
        bench(runs, 4, "night run", REMOTE): "night",
    }
    history.annotate(RunKind.BENCH, "run2", note="A noted run", tag="keep")
    assert [names[entry.id] for entry in history.entries(wanted)] == expected
    assert history.count(wanted) == len(expected)


def test_notes_and_tags_are_kept_and_shown(store, runs, history):
    plan, run_id = turn(store, 1), bench(runs, 2)
    history.annotate(RunKind.CHAT, plan.id, note="Nice", tag="demo")
    history.annotate(RunKind.BENCH, run_id, note="Good", tag="keep")
    history.annotate(RunKind.BENCH, run_id, note="Better", tag="keep")
    assert [(entry.note, entry.tag) for entry in history.entries()] == [("Better", "keep"), ("Nice", "demo")]
    assert history.tags() == ("demo", "keep")
    assert (runs.run(run_id).note, runs.run(run_id).tag) == ("Better", "keep")


def test_deleting_can_be_undone(store, runs, history):
    plan, run_id = turn(store, 1), bench(runs, 2)
    history.annotate(RunKind.CHAT, plan.id, note="Nice", tag="")
    history.delete(RunKind.CHAT, [plan.id])
    history.delete(RunKind.BENCH, [run_id])
    assert history.entries() == ()
    assert ids(history.entries(HistoryFilter(deleted=True))) == [run_id, plan.id]
    assert store.conversation(plan.conversation_id) == ()
    history.restore(RunKind.CHAT, [plan.id])
    assert history.entries()[0].note == "Nice"
    assert len(store.conversation(plan.conversation_id)) == 1


def test_purging_removes_what_was_deleted_for_good(store, runs, history):
    plan, run_id, kept = turn(store, 1), bench(runs, 2), bench(runs, 3)
    runs.save(replace(RUN, id=run_id), requests=[BenchRequest(number=0, pass_number=0, lane="hf")])
    history.delete(RunKind.CHAT, [plan.id])
    history.delete(RunKind.BENCH, [run_id])
    assert history.purge(utc_now() - timedelta(hours=1)) == Purged()
    assert history.purge(utc_now() + timedelta(seconds=1)).entries == 2
    assert (store.turn(plan.id), runs.run(run_id), runs.request_count(run_id)) == (None, None, 0)
    assert ids(history.entries()) == [kept]
    assert history.entries(HistoryFilter(deleted=True)) == ()


def answer(plan, position, **changes):
    timing = Timing(sent_ns=0, chunk_ns=(50_000_000, 60_000_000), content_chars=(1, 1), output_tokens=2)
    changes = {"phase": Phase.DONE, "finish_reason": FinishReason.STOP, "timing": timing} | changes
    return a_record(plan, position, **changes)


def test_a_turns_summary_follows_from_its_answers(store, history):
    plan = turn(store, 1)
    store.save_request(answer(plan, 0))
    store.save_request(answer(plan, 1, finish_reason=FinishReason.ERROR, timing=None))
    summary = history.entries()[0].summary
    assert (summary.answered, summary.failed) == (1, 1)
    first, second = summary.lanes
    assert (first.lane, first.ttft_s, first.decode_tok_per_s) == (
        "hf",
        pytest.approx(0.05),
        pytest.approx(100),
    )
    assert (second.lane, second.ttft_s, second.decode_tok_per_s) == ("remote", None, None)


def test_a_load_tests_summary_holds_until_the_run_is_saved_again(runs, history):
    run_id = bench(runs, 1, state=RunState.DONE)
    entry = history.entries()[0]
    assert entry.summary is None
    summary = Summary(
        lanes=(LaneSummary(lane="hf", ttft_s=0.1, decode_tok_per_s=None),), answered=9, failed=1
    )
    history.keep_summary(run_id, entry.updated_at, summary)
    assert history.entries()[0].summary == summary
    history.keep_summary(run_id, entry.updated_at, replace(summary, failed=2))
    assert history.entries()[0].summary.failed == 2
    bench(runs, 1, state=RunState.DONE)
    assert history.entries()[0].summary is None


def test_a_summary_goes_with_its_run(runs, history):
    run_id = bench(runs, 1, state=RunState.DONE)
    summary = Summary(lanes=(), answered=0, failed=0)
    history.keep_summary(run_id, history.entries()[0].updated_at, summary)
    history.delete(RunKind.BENCH, [run_id])
    assert history.purge(utc_now() + timedelta(seconds=1)).entries == 1


def test_entries_are_found_by_their_ids_even_when_deleted(store, runs, history):
    plan, run_id = turn(store, 1), bench(runs, 2)
    history.delete(RunKind.BENCH, [run_id])
    found = history.find([run_id, "nobody", plan.id, run_id])
    assert ids(found) == [run_id, plan.id]
    assert found[0].deleted_at is not None
    assert found[1].deleted_at is None
    assert history.find([]) == ()


def test_the_filters_can_ask_for_what_is_there(store, runs, history):
    turn(store, 1)
    bench(runs, 2, lane=REMOTE)
    history.set_tag(RunKind.BENCH, ["run2"], "keep")
    choices = history.choices()
    assert (choices.lanes, choices.models) == (("hf", "remote"), ("smol",))
    assert (choices.hosts, choices.tags) == (("lab",), ("keep",))


def test_a_tag_is_set_without_touching_the_notes(runs, history):
    first, second = bench(runs, 1), bench(runs, 2)
    history.annotate(RunKind.BENCH, first, note="Good", tag="old")
    history.set_tag(RunKind.BENCH, [first, second], "new")
    assert [(entry.tag, entry.note) for entry in history.entries()] == [("new", ""), ("new", "Good")]
    history.set_tag(RunKind.BENCH, [first], "")
    assert history.tags() == ("new",)
