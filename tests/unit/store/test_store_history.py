from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from store_samples import HF, MACHINE, REMOTE, a_full_record, a_plan, a_record
from test_store_bench_runs import RUN

from core.domain.bench import BenchRequest, LaneFacts, RunState
from core.domain.history import HistoryFilter, RunKind
from core.domain.runs import FinishReason, Phase, utc_now
from core.store.bench_runs import BenchRuns
from core.store.history import History

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
    assert history.purge(utc_now() - timedelta(hours=1)) == 0
    assert history.purge(utc_now() + timedelta(seconds=1)) == 2
    assert (store.turn(plan.id), runs.run(run_id), runs.request_count(run_id)) == (None, None, 0)
    assert ids(history.entries()) == [kept]
    assert history.entries(HistoryFilter(deleted=True)) == ()
