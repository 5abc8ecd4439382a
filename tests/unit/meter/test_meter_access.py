"""Whose turns run in the meter, who follows them, and who stops them."""

from dataclasses import replace

import pytest
from test_meter_link import SLOW, first_text, followed, link, plan_for, settings, wait_for  # noqa: F401

from core.access.guard import acting_as
from core.access.identity import NOBODY, Identity, Person, Role, Visibility
from core.domain.turns import FinishReason
from core.errors import AccessDenied, InputError
from core.store.turns import Store

ADA = Identity(id="ada@example.com", name="Ada", role=Role.OPERATOR, login="a")
BOB = Identity(id="bob@example.com", name="Bob", role=Role.VIEWER, sees=Visibility.LINK, login="b")
EVE = replace(BOB, id="eve@example.com", name="Eve", sees=Visibility.PRIVATE, login="e")


@pytest.fixture
def plan(link, server):  # noqa: F811
    """A turn of Bob's that runs."""
    plan = plan_for(server, SLOW)
    with acting_as(BOB):
        link.start(replace(plan, owner="somebody@else.example"))
        first_text(link, plan)
    return plan


def test_a_turn_belongs_to_who_started_it_whatever_its_plan_says(link, plan, settings):  # noqa: F811
    assert link.turn(plan.id).owner == BOB.id
    link.cancel(plan.id)
    store = Store(settings.database_url)
    wait_for(lambda: (turn := store.turn(plan.id)) is not None and turn.done)
    assert store.turn(plan.id).owner == BOB.id
    store.close()


def test_only_its_owner_and_operators_stop_it_and_the_record_says_who(link, plan, settings):  # noqa: F811
    with acting_as(replace(EVE, sees=Visibility.LINK)), pytest.raises(AccessDenied):
        link.cancel(plan.id)
    with acting_as(EVE):
        link.cancel(plan.id)  # as if there were no such turn
    assert not link.turn(plan.id).done
    with acting_as(ADA):
        link.cancel(plan.id)
    (request,) = link.turn(plan.id).requests
    assert request.finish_reason is FinishReason.CANCELLED
    assert request.stopped_by == Person(id=ADA.id, name="Ada")
    store = Store(settings.database_url)
    wait_for(lambda: (turn := store.turn(plan.id)) is not None and turn.done)
    assert store.turn(plan.id).requests[0].stopped_by == request.stopped_by
    store.close()


def test_its_owner_may_stop_it(link, plan):  # noqa: F811
    with acting_as(BOB):
        link.cancel(plan.id)
        assert link.turn(plan.id).requests[0].stopped_by == Person(id=BOB.id, name="Bob")


def test_an_answer_that_ended_by_itself_was_stopped_by_nobody(link, server):  # noqa: F811
    plan = plan_for(server, {"chunks": 2, "interval_s": 0.0})
    with acting_as(BOB):
        link.start(plan)
        record = followed(link, plan)[-1].record
        link.cancel(plan.id)
    assert (record.finish_reason, record.stopped_by) == (FinishReason.STOP, None)


def test_what_somebody_may_not_see_is_as_if_it_were_not_there(link, plan):  # noqa: F811
    with acting_as(EVE):
        assert link.turn(plan.id) is None
        with pytest.raises(InputError) as refused:
            next(link.follow(plan.id, plan.requests[0].id))
        assert refused.value.code == "unknown-turn"
    with acting_as(replace(EVE, sees=Visibility.LINK)):
        assert link.turn(plan.id)
        assert first_text(link, plan)


def test_nobody_starts_a_turn(link, server):  # noqa: F811
    with acting_as(NOBODY), pytest.raises(AccessDenied):
        link.start(plan_for(server, SLOW))
