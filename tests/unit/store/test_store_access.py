"""Whose things are shown to whom, who may change them, and the audit log."""

from dataclasses import replace
from datetime import timedelta

import pytest
from test_store_runs_bench import RUN

from core.access import guard
from core.access.guard import Action, AuditEntry, acting_as, authorise
from core.access.identity import LOCAL, NOBODY, Identity, Role, Visibility
from core.domain.runs import BenchRecord, HistoryFilter, RunKind
from core.domain.turns import utc_now
from core.errors import AccessDenied
from core.store.audit import AuditLog
from core.store.history import History
from core.store.runs import BenchRuns
from tests.unit.store.store_samples import a_plan

ADA = Identity(id="ada@example.com", name="Ada", role=Role.OPERATOR, login="a")
BOB = Identity(id="bob@example.com", name="Bob", role=Role.VIEWER, sees=Visibility.LINK, login="b")
EVE = replace(BOB, id="eve@example.com", name="Eve", login="e")


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


@pytest.fixture
def audit(database_url, store):
    audit = AuditLog(database_url)
    guard.record_with(audit.record)
    yield audit
    guard.record_with(None)
    audit.close()


def turn_of(store, identity, **changes):
    plan = a_plan(owner=identity.owner, **{"conversation_id": f"of-{identity.id}", **changes})
    store.save_turn(plan, None)
    return plan


def run_of(runs, identity, run_id):
    with acting_as(identity):
        runs.save(replace(RUN, id=run_id))
    return run_id


def ids(found):
    return {entry.id for entry in found}


def test_lists_hold_ones_own_and_all_for_operators(store, runs, history):
    bobs, eves, nobodys = turn_of(store, BOB), turn_of(store, EVE), turn_of(store, LOCAL)
    adas = run_of(runs, ADA, "adas")
    everything = {bobs.id, eves.id, nobodys.id, adas}
    for identity, expected in ((BOB, {bobs.id}), (ADA, everything), (LOCAL, everything), (NOBODY, set())):
        with acting_as(identity):
            assert ids(history.entries()) == expected
            assert history.count() == len(expected)
            assert ids(store.conversations()) == {
                f"of-{each.id}" for each, plan in ((BOB, bobs), (EVE, eves), (LOCAL, nobodys))
                if plan.id in expected
            }  # fmt: skip


def test_visible_to_all_is_a_setting_of_the_installation(store, history):
    bobs = turn_of(store, BOB)
    with acting_as(replace(EVE, sees=Visibility.ALL)):
        assert ids(history.entries()) == {bobs.id}
        assert ids(store.conversations()) == {"of-bob@example.com"}


def test_a_link_opens_what_others_made_unless_it_is_private(store, runs, history):
    bobs = turn_of(store, BOB)
    run_of(runs, ADA, "adas")
    with acting_as(EVE):
        assert [turn.owner for turn in store.conversation("of-bob@example.com")] == [BOB.id]
        assert store.turn(bobs.id)
        assert ids(history.find([bobs.id, "adas"])) == {bobs.id, "adas"}
        assert runs.run("adas")
    with acting_as(replace(EVE, sees=Visibility.PRIVATE)):
        with pytest.raises(AccessDenied):
            store.conversation("of-bob@example.com")
        assert store.turn(bobs.id) is None
        assert history.find([bobs.id, "adas"]) == ()
        assert runs.run("adas") is None
        assert runs.passes("adas") == runs.requests("adas") == ()
        assert store.conversation("of-nobody-yet") == ()


def test_viewers_change_what_is_their_own_only(store, history):
    bobs, eves, nobodys = turn_of(store, BOB), turn_of(store, EVE), turn_of(store, LOCAL)
    with acting_as(BOB):
        history.annotate(RunKind.CHAT, bobs.id, note="mine", tag="t")
        history.delete(RunKind.CHAT, [bobs.id])
        assert ids(history.entries(HistoryFilter(deleted=True))) == {bobs.id}
        history.restore(RunKind.CHAT, [bobs.id])
        for other in (eves.id, nobodys.id, "no-such-turn"):
            with pytest.raises(AccessDenied):
                history.annotate(RunKind.CHAT, other, note="x", tag="x")
            with pytest.raises(AccessDenied):
                history.set_tag(RunKind.CHAT, [bobs.id, other], "x")
            with pytest.raises(AccessDenied):
                history.delete(RunKind.CHAT, [bobs.id, other])
            with pytest.raises(AccessDenied):
                history.restore(RunKind.CHAT, [other])
        with pytest.raises(AccessDenied):
            history.purge(utc_now())
        assert [(entry.tag, entry.deleted_at) for entry in history.entries()] == [("t", None)]
    with acting_as(ADA):
        history.delete(RunKind.CHAT, [eves.id])
        assert ids(history.entries()) == {bobs.id, nobodys.id}


def test_tags_of_others_are_not_told(store, history):
    bobs, eves = turn_of(store, BOB), turn_of(store, EVE)
    with acting_as(LOCAL):
        history.annotate(RunKind.CHAT, bobs.id, note="", tag="bobs")
        history.annotate(RunKind.CHAT, eves.id, note="", tag="secret")
    with acting_as(BOB):
        assert history.tags() == history.choices().tags == ("bobs",)


def test_runs_are_imported_by_operators_and_never_over_others(runs):
    run_of(runs, ADA, "adas")
    with acting_as(BOB), pytest.raises(AccessDenied):
        runs.add(BenchRecord(run=replace(RUN, id="new")))
    with acting_as(ADA):
        runs.add(BenchRecord(run=replace(RUN, id="new")))
    with acting_as(BOB):
        assert runs.run("new")


def test_the_audit_log_tells_who_did_what_newest_first(audit, store, history):
    bobs = turn_of(store, BOB)
    with acting_as(ADA):
        authorise(Action.START_ENGINE, "hf")
    with acting_as(BOB):
        history.delete(RunKind.CHAT, [bobs.id])
        with pytest.raises(AccessDenied):
            authorise(Action.STOP_ENGINE, "hf")
    found = audit.entries()
    assert [(each.who, each.name, each.action, each.target, each.allowed) for each in found] == [
        (BOB.id, "Bob", Action.STOP_ENGINE, "hf", False),
        (BOB.id, "Bob", Action.DELETE, f"chat {bobs.id}", True),
        (ADA.id, "Ada", Action.START_ENGINE, "hf", True),
    ]
    assert all(utc_now() - each.at < timedelta(minutes=1) for each in found)
    assert audit.count() == 3
    assert audit.entries(limit=1, offset=1) == found[1:2]


def test_an_ended_login_is_ended_in_every_dashboard(database_url, audit):
    assert not audit.has_ended("b")
    with acting_as(BOB):
        authorise(Action.LOG_OUT, BOB.login)
    audit.end_login(BOB.login)
    assert audit.has_ended("b")
    other = AuditLog(database_url)
    assert other.has_ended("b")
    assert not other.has_ended("a")
    other.close()


def test_a_logout_of_long_ago_is_not_looked_at(database_url, audit):
    at = utc_now() - timedelta(days=40)
    audit.record(
        AuditEntry(who="b", name="B", action=Action.LOG_OUT, target="old", allowed=True, at=at),
    )
    assert not audit.has_ended("old")


def test_ended_logins_survive_a_store_that_can_not_be_read(tmp_path):
    log = AuditLog(f"sqlite:///{tmp_path}")  # a folder
    log.end_login("b")
    assert log.has_ended("b")
    assert not log.has_ended("a")
