import asyncio
from contextlib import closing

import pytest

from core.domain.conversation import Sampling, messages_for
from core.domain.specs import EndpointSpec, EngineKind, LaneSpec
from core.domain.turns import Phase, RequestPlan, TurnPlan
from core.errors import StoreError
from core.meter.keeping import run_and_keep
from core.settings import load_settings
from core.store.turns import Store
from tests.scripted_server import running


@pytest.fixture
def settings(tmp_path):
    return load_settings({"LMDYNO_HOME": str(tmp_path)})


def plan_for(url):
    remote = LaneSpec(name="remote", kind=EngineKind.ENDPOINT, endpoint=EndpointSpec(url=url, model="{}"))
    return TurnPlan(
        conversation_id="talk",
        prompt="Hi",
        sampling=Sampling(max_tokens=3),
        requests=(RequestPlan(lane=remote, messages=messages_for("Hi")),),
    )


def test_what_was_answered_is_in_the_store(settings):
    with running() as server:
        plan = plan_for(server.url)
        (record,) = asyncio.run(run_and_keep(settings, plan))
    assert record.phase is Phase.DONE
    assert record.error is None
    with closing(Store(settings.database_url)) as store:
        assert store.turn(plan.id).requests == (record,)


def test_a_store_that_takes_nothing_is_told_or_raised(settings, monkeypatch):
    def refuse(*_arguments):
        raise StoreError("The disk is full.", code="store-full")

    monkeypatch.setattr(Store, "save_turn", refuse)
    problems = []
    with running() as server:
        (record,) = asyncio.run(run_and_keep(settings, plan_for(server.url), on_problem=problems.append))
        with pytest.raises(StoreError):
            asyncio.run(run_and_keep(settings, plan_for(server.url)))
    assert record.text
    assert [problem.code for problem in problems] == ["store-full"]
