import pytest

from core.access import guard
from core.access.guard import Action, acting_as, authorise, current_identity, may, may_see
from core.access.identity import LOCAL, NOBODY, SYSTEM, Identity, Role, Visibility
from core.errors import AccessDenied

ADA = Identity(id="ada@example.com", name="Ada", role=Role.OPERATOR, login="1")
BOB = Identity(id="bob@example.com", name="Bob", role=Role.VIEWER, sees=Visibility.LINK, login="2")
OWN = {Action.STOP_ANSWER, Action.ANNOTATE, Action.DELETE, Action.RESTORE}
OPEN = {Action.CHAT, Action.VOTE, Action.EXPORT, Action.LOG_IN, Action.LOG_OUT}


@pytest.fixture
def entries():
    found = []
    guard.record_with(found.append)
    yield found
    guard.record_with(None)


def test_operators_may_do_everything():
    for identity in (ADA, LOCAL, SYSTEM):
        with acting_as(identity):
            assert all(may(action) for action in Action)


def test_viewers_chat_vote_and_look_after_their_own():
    with acting_as(BOB):
        assert {action for action in Action if may(action)} == OPEN
        assert {action for action in Action if may(action, owner=ADA.id)} == OPEN
        assert {action for action in Action if may(action, owner=BOB.id)} == OPEN | OWN


def test_nobody_may_do_nothing(entries):
    with acting_as(NOBODY):
        assert not any(may(action, owner=NOBODY.id) for action in Action)
        with pytest.raises(AccessDenied) as raised:
            authorise(Action.CHAT)
    assert raised.value.code == "logged-out"


def test_without_a_dashboard_the_owner_of_the_machine_acts():
    guard.find_identity_with(None)
    assert current_identity() == LOCAL
    assert LOCAL.owner is None


def test_the_dashboard_tells_who_acts():
    guard.find_identity_with(lambda: BOB)
    try:
        assert current_identity() == BOB
        with acting_as(SYSTEM):
            assert current_identity() == SYSTEM
        assert current_identity() == BOB
    finally:
        guard.find_identity_with(None)


def test_who_did_what_and_who_wanted_to_is_recorded(entries):
    with acting_as(ADA):
        assert authorise(Action.START_ENGINE, "hf") == ADA
        authorise(Action.CHAT)
    with acting_as(BOB), pytest.raises(AccessDenied) as raised:
        authorise(Action.STOP_ENGINE, "hf")
    with acting_as(SYSTEM):
        authorise(Action.START_ENGINE, "hf-q4")
    assert raised.value.code == "access-denied"
    assert [(entry.who, entry.action, entry.target, entry.allowed) for entry in entries] == [
        (ADA.id, Action.START_ENGINE, "hf", True),
        (BOB.id, Action.STOP_ENGINE, "hf", False),
    ]
    assert all(entry.at.tzinfo for entry in entries)


def test_an_audit_log_that_fails_hinders_nothing():
    def fail(entry):
        raise OSError("disk full")

    guard.record_with(fail)
    try:
        with acting_as(ADA):
            assert authorise(Action.START_ENGINE, "hf") == ADA
    finally:
        guard.record_with(None)


@pytest.mark.parametrize(
    ("identity", "owner", "in_lists", "with_link"),
    [
        (ADA, BOB.id, True, True),
        (ADA, None, True, True),
        (LOCAL, BOB.id, True, True),
        (BOB, BOB.id, True, True),
        (BOB, ADA.id, False, True),
        (BOB, None, False, True),
        (NOBODY, BOB.id, False, False),
        (NOBODY, None, False, False),
    ],
)
def test_who_sees_what(identity, owner, in_lists, with_link):
    with acting_as(identity):
        assert may_see(owner, by_link=False) is in_lists
        assert may_see(owner, by_link=True) is with_link


@pytest.mark.parametrize(("sees", "expected"), [(Visibility.ALL, True), (Visibility.PRIVATE, False)])
def test_the_installation_decides_what_viewers_see_of_others(sees, expected):
    with acting_as(Identity(id="b", name="B", role=Role.VIEWER, sees=sees, login="3")):
        assert may_see("a", by_link=False) is expected
        assert may_see("a", by_link=True) is expected
