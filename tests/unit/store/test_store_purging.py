"""What goes for good with deleted entries, and what stays because something else refers to it."""

import threading
from dataclasses import replace
from datetime import timedelta

import pytest
from sqlalchemy import text
from test_store_runs_bench import RUN

from core.domain.conversation import Message, Role, named_images
from core.domain.runs import RunKind
from core.domain.turns import utc_now
from core.store import turns as runs
from core.store.database import connect, parse_location
from core.store.history import History, Purged
from core.store.runs import BenchRuns
from core.store.tables import requests
from tests.unit.store.store_samples import HF, IMAGE, MACHINE, a_plan

OTHER = replace(IMAGE, sha256="cd" * 32)
SEEN = Message(Role.USER, "What is it?", (IMAGE,))
FOLLOW_UP = (SEEN, Message(Role.ASSISTANT, "A cat."), Message(Role.USER, "Sure?"))


@pytest.fixture
def history(database_url, store):
    history = History(database_url)
    yield history
    history.close()


@pytest.fixture
def contents(database_url):
    """What the messages say that are stored."""
    engine = connect(parse_location(database_url), lock_timeout_s=5)

    def read():
        with engine.connect() as connection:
            return sorted(connection.scalars(text("SELECT content FROM messages")))

    yield read
    engine.dispose()


def turn(store, *messages, **changes):
    plan = a_plan(HF, messages=messages, **changes)
    store.save_turn(plan, MACHINE)
    return plan


def purge(history, *plans):
    history.delete(RunKind.CHAT, [plan.id for plan in plans])
    return history.purge(utc_now() + timedelta(seconds=1))


def test_messages_go_with_the_last_request_that_was_sent_them(store, history, contents):
    first, second = turn(store, SEEN), turn(store, *FOLLOW_UP)
    purge(history, first)
    assert contents() == ["A cat.", "Sure?", "What is it?"]
    assert store.turn(second.id).requests[0].messages == FOLLOW_UP
    other = turn(store, Message(Role.USER, "Another talk"))
    purge(history, second)
    assert contents() == ["Another talk"]
    purge(history, other)
    assert contents() == []


def test_nothing_goes_while_nothing_is_purged(store, history, contents):
    plan = turn(store, SEEN, images=(IMAGE,))
    history.delete(RunKind.CHAT, [plan.id])
    assert history.purge(utc_now() - timedelta(days=1)) == Purged()
    assert contents() == ["What is it?"]


def test_an_image_goes_with_the_last_record_that_names_it(store, history):
    first = turn(store, SEEN, images=(IMAGE, OTHER))
    again = turn(store, SEEN, images=(IMAGE,), conversation_id="another")
    assert purge(history, first) == Purged(1, images=frozenset({OTHER.sha256}))
    assert purge(history, again) == Purged(1, images=frozenset({IMAGE.sha256}))


def test_an_image_of_an_earlier_turn_is_kept_for_those_that_were_sent_it_again(store, history):
    first, second = turn(store, SEEN, images=(IMAGE,)), turn(store, *FOLLOW_UP)
    assert purge(history, first).images == frozenset()
    assert purge(history, second).images == {IMAGE.sha256}


def test_an_image_of_a_turn_that_can_be_restored_is_kept(store, history):
    first, second = turn(store, SEEN, images=(IMAGE,)), turn(store, SEEN, images=(IMAGE,))
    history.delete(RunKind.CHAT, [first.id])
    between = utc_now()
    history.delete(RunKind.CHAT, [second.id])
    assert history.purge(between) == Purged(1)


def test_a_load_tests_plan_names_images_too(store, history, database_url):
    load_tests = BenchRuns(database_url)
    plan = f'{{"images": [{{"sha256": "{IMAGE.sha256}"}}]}}'
    load_tests.save(replace(RUN, id="run1", plan=plan))
    load_tests.close()
    assert purge(history, turn(store, SEEN, images=(IMAGE,))).images == frozenset()
    history.delete(RunKind.BENCH, ["run1"])
    assert history.purge(utc_now() + timedelta(seconds=1)) == Purged(1, images=frozenset({IMAGE.sha256}))


def test_hashes_are_found_in_any_text():
    assert named_images([f'"{IMAGE.sha256}", \\"{OTHER.sha256}\\"', "", "ab" * 31]) == {
        IMAGE.sha256,
        OTHER.sha256,
    }


def test_a_turn_that_is_being_saved_keeps_its_messages(store, history, monkeypatch):
    """Its messages are there already, from a turn that is purged before its requests can name them."""
    history.delete(RunKind.CHAT, [turn(store, *FOLLOW_UP).id])
    purging = threading.Thread(target=history.purge, args=(utc_now() + timedelta(seconds=1),))
    insert_new = runs.insert_new

    def purge_in_between(connection, table, rows):
        if table is requests:
            purging.start()
            purging.join(0.5)
        insert_new(connection, table, rows)

    monkeypatch.setattr(runs, "insert_new", purge_in_between)
    second = turn(store, *FOLLOW_UP)
    purging.join()
    assert store.turn(second.id).requests[0].messages == FOLLOW_UP
