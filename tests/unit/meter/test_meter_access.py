"""Whose turns run in the meter, who follows them, and who stops them."""

from dataclasses import replace

import pytest
from test_meter_link import (  # noqa: F401
    SLOW,
    first_text,
    followed,
    plan_for,
    shared_link,
    shared_settings,
    store,
    wait_for,
)

from core.access.guard import acting_as
from core.access.identity import NOBODY, Identity, Person, Role, Visibility
from core.domain.turns import FinishReason
from core.errors import AccessDenied, InputError

ADA = Identity(id="ada@example.com", name="Ada", role=Role.OPERATOR, login="a")
BOB = Identity(id="bob@example.com", name="Bob", role=Role.VIEWER, sees=Visibility.LINK, login="b")
EVE = replace(BOB, id="eve@example.com", name="Eve", sees=Visibility.PRIVATE, login="e")


@pytest.fixture
def plan(shared_link, server):  # noqa: F811
    """A turn of Bob's that runs."""
    plan = plan_for(server, SLOW)
    with acting_as(BOB):
        shared_link.start(replace(plan, owner="somebody@else.example"))
        first_text(shared_link, plan)
    yield plan
    with acting_as(ADA):
        shared_link.cancel(plan.id)


def test_a_turn_belongs_to_who_started_it_whatever_its_plan_says(shared_link, plan, store):  # noqa: F811
    assert shared_link.turn(plan.id).owner == BOB.id
    shared_link.cancel(plan.id)
    wait_for(lambda: (turn := store.turn(plan.id)) is not None and turn.done)
    assert store.turn(plan.id).owner == BOB.id


def test_only_its_owner_and_operators_stop_it_and_the_record_says_who(shared_link, plan, store):  # noqa: F811
    with acting_as(replace(EVE, sees=Visibility.LINK)), pytest.raises(AccessDenied):
        shared_link.cancel(plan.id)
    with acting_as(EVE):
        shared_link.cancel(plan.id)  # as if there were no such turn
    assert not shared_link.turn(plan.id).done
    with acting_as(ADA):
        shared_link.cancel(plan.id)
    (request,) = shared_link.turn(plan.id).requests
    assert request.finish_reason is FinishReason.CANCELLED
    assert request.stopped_by == Person(id=ADA.id, name="Ada")
    wait_for(lambda: (turn := store.turn(plan.id)) is not None and turn.done)
    assert store.turn(plan.id).requests[0].stopped_by == request.stopped_by


def test_its_owner_may_stop_it(shared_link, plan):  # noqa: F811
    with acting_as(BOB):
        shared_link.cancel(plan.id)
        assert shared_link.turn(plan.id).requests[0].stopped_by == Person(id=BOB.id, name="Bob")


def test_an_answer_that_ended_by_itself_was_stopped_by_nobody(shared_link, server):  # noqa: F811
    plan = plan_for(server, {"chunks": 2, "interval_s": 0.0})
    with acting_as(BOB):
        shared_link.start(plan)
        record = followed(shared_link, plan)[-1].record
        shared_link.cancel(plan.id)
    assert (record.finish_reason, record.stopped_by) == (FinishReason.STOP, None)


def test_what_somebody_may_not_see_is_as_if_it_were_not_there(shared_link, plan):  # noqa: F811
    with acting_as(EVE):
        assert shared_link.turn(plan.id) is None
        with pytest.raises(InputError) as refused:
            next(shared_link.follow(plan.id, plan.requests[0].id))
        assert refused.value.code == "unknown-turn"
    with acting_as(replace(EVE, sees=Visibility.LINK)):
        assert shared_link.turn(plan.id)
        assert first_text(shared_link, plan)


def test_nobody_starts_a_turn(shared_link, server):  # noqa: F811
    with acting_as(NOBODY), pytest.raises(AccessDenied):
        shared_link.start(plan_for(server, SLOW))
