import asyncio
import gc
from contextlib import closing, contextmanager
from dataclasses import replace
from itertools import pairwise

import pytest

from core.chat_api.answer import Answer
from core.chat_api.client import Timeouts, open_session
from core.domain.conversation import Sampling, messages_for
from core.domain.specs import EndpointSpec, EngineKind, LaneSpec
from core.domain.turns import FinishReason, Mode, Phase, RequestPlan, TurnPlan
from core.errors import EngineBusy, EngineLoadFailed, StoreError
from core.meter.devices import DeviceQueue
from core.meter.turns import Surroundings, Turn, run_and_keep, run_turn
from core.settings import load_settings
from core.store.turns import Store
from tests.scripted_server import running
from tests.unit.meter.meter_samples import model, no_lease, remote_lane, resolve_remote, turn_plan


def run(plan, *, resolve=resolve_remote, lease=no_lease, cancel_after_s=None, **more):
    """The turn's records and all updates."""
    updates = []

    async def main():
        cancel = asyncio.Event()
        if cancel_after_s is not None:
            asyncio.get_running_loop().call_later(cancel_after_s, cancel.set)
        return await run_turn(
            plan, resolve=resolve, lease=lease, on_update=updates.append, cancel=cancel, **more
        )

    return asyncio.run(main()), updates


def lanes(url, *scenarios):
    return [remote_lane(f"lane{index}", url, model(**scenario)) for index, scenario in enumerate(scenarios)]


def phases(updates, request_id):
    seen = [update.phase for update in updates if update.request_id == request_id]
    return [phase for index, phase in enumerate(seen) if index == 0 or seen[index - 1] is not phase]


def window(record):
    return record.timing.sent_ns, record.timing.ended_ns


def test_one_after_another_runs_in_plan_order(server):
    plan = turn_plan(*lanes(server.url, *[{"chunks": 4, "interval_s": 0.03}] * 3))
    records, _ = run(plan)
    assert [record.id for record in records] == [request.id for request in plan.requests]
    for earlier, later in pairwise(records):
        assert window(earlier)[1] <= window(later)[0]


def test_together_all_are_sent_before_any_ends(server):
    plan = turn_plan(*lanes(server.url, *[{"chunks": 4, "first_chunk_s": 0.3}] * 3), mode=Mode.TOGETHER)
    records, _ = run(plan)
    assert max(window(record)[0] for record in records) < min(window(record)[1] for record in records)


def test_updates_carry_the_phases_the_whole_text_and_the_record(server):
    plan = turn_plan(*lanes(server.url, {"text": "one two three four", "interval_s": 0.04}))
    (record,), updates = run(plan)
    request_id = plan.requests[0].id
    assert phases(updates, request_id) == [Phase.SENT, Phase.STREAMING, Phase.DONE]
    assert "".join(update.content for update in updates) == record.text == "one two three four"
    assert updates[-1].record == record
    assert (record.engine_version, record.served_model) == ("script 1", "script")
    assert (record.finish_reason, record.error, record.phase) == (FinishReason.STOP, None, Phase.DONE)
    assert record.sent_at is not None


def test_text_is_told_at_most_twenty_times_a_second(server):
    plan = turn_plan(*lanes(server.url, {"chunks": 200, "interval_s": 0.005}))
    (record,), updates = run(plan)
    told = [update for update in updates if update.content]
    assert len(record.timing.chunk_ns) > 40
    assert len(told) <= 20 * record.e2e_s + 3
    assert "".join(update.content for update in told) == record.text


def test_of_an_ended_turn_the_record_is_kept_and_nothing_of_the_stream(server):
    plan = turn_plan(*lanes(server.url, {"text": "one two three four"}))

    async def main():
        async with open_session() as session:
            around = Surroundings(session=session, resolve=resolve_remote, lease=no_lease)
            turn = Turn(plan, around, lambda _update: None)
            await turn.run()
            gc.collect()
            held = [kept for kept in gc.get_objects() if isinstance(kept, Answer)]
            return turn.records(), held

    (record,), held = asyncio.run(main())
    assert record.text == "one two three four"
    assert not held


@pytest.mark.parametrize("mode", Mode)
def test_one_lanes_failure_stops_no_other(server, mode):
    scenarios = (
        {"chunks": 3},
        {"status": 500, "error": "broken"},
        {"chunks": 3, "cut_after": 1, "interval_s": 0.02},
    )
    plan = turn_plan(*lanes(server.url, *scenarios, {"chunks": 3}), mode=mode)
    records, _ = run(plan)
    assert [record.finish_reason for record in records] == [
        FinishReason.STOP, FinishReason.ERROR, FinishReason.ERROR, FinishReason.STOP
    ]  # fmt: skip
    assert records[1].error.code == "endpoint-refused"
    assert records[2].text == "word0 "


def test_an_engine_that_failed_is_its_lanes_error(server):
    def resolve(lane):
        if lane.name == "lane0":
            raise EngineLoadFailed("It gave up", hint="See the log.")
        return resolve_remote(lane)

    records, _ = run(turn_plan(*lanes(server.url, {}, {}), mode=Mode.TOGETHER), resolve=resolve)
    assert records[0].error.code == "engine-load-failed"
    assert records[0].timing is None
    assert records[1].finish_reason is FinishReason.STOP


def test_an_error_of_our_own_is_its_lanes_error_too(server):
    def resolve(lane):
        if lane.name == "lane0":
            raise RuntimeError("a bug")
        return resolve_remote(lane)

    records, _ = run(turn_plan(*lanes(server.url, {}, {})), resolve=resolve)
    assert records[0].error.code == "internal"
    assert records[1].finish_reason is FinishReason.STOP


@pytest.mark.parametrize("mode", Mode)
def test_an_engine_that_starts_is_waited_for(server, mode):
    asked = []

    def resolve(lane):
        asked.append(lane.name)
        return None if lane.name == "lane0" and asked.count("lane0") < 4 else resolve_remote(lane)

    plan = turn_plan(*lanes(server.url, {"chunks": 2}, {"chunks": 2}), mode=mode)
    records, updates = run(plan, resolve=resolve)
    assert all(record.finish_reason is FinishReason.STOP for record in records)
    assert phases(updates, plan.requests[0].id)[0] is Phase.STARTING


def test_the_lease_is_held_while_the_request_runs_and_no_longer(server):
    held, during = set(), []

    @contextmanager
    def lease(name):
        held.add(name)
        yield
        held.remove(name)

    def resolve(lane):
        return resolve_remote(remote_lane("x", server.url, model(chunks=3, interval_s=0.05)))

    local = LaneSpec(name="hf", kind=EngineKind.TRANSFORMERS)

    async def main():
        def note(update):
            if update.phase is Phase.STREAMING:
                during.append(set(held))

        await run_turn(turn_plan(local), resolve=resolve, lease=lease, on_update=note, cancel=asyncio.Event())

    asyncio.run(main())
    assert during
    assert all(names == {"hf"} for names in during)
    assert held == set()


def test_a_refused_lease_is_its_lanes_error(server):
    @contextmanager
    def lease(name):
        raise EngineBusy("It is being stopped", code="engine-stopping")
        yield

    (record,), _ = run(
        turn_plan(LaneSpec(name="hf", kind=EngineKind.TRANSFORMERS)),
        resolve=lambda lane: resolve_remote(remote_lane("x", server.url, "hello")),
        lease=lease,
    )
    assert record.error.code == "engine-stopping"


@pytest.mark.parametrize("mode", Mode)
def test_stop_keeps_the_text_and_ends_every_lane_at_once(server, mode):
    slow = {"chunks": 200, "interval_s": 0.05}
    plan = turn_plan(*lanes(server.url, slow, {"hang": True}), mode=mode)

    async def timed():
        loop = asyncio.get_running_loop()
        cancel, cancelled_at = asyncio.Event(), 0.0

        def stop():
            nonlocal cancelled_at
            cancelled_at = loop.time()
            cancel.set()

        loop.call_later(0.5, stop)
        records = await run_turn(
            plan, resolve=resolve_remote, lease=no_lease, on_update=lambda update: None, cancel=cancel
        )
        return records, loop.time() - cancelled_at

    records, took_s = asyncio.run(timed())
    assert [record.finish_reason for record in records] == [FinishReason.CANCELLED] * 2
    assert records[0].text.startswith("word0 word1 ")
    assert records[1].text == ""
    assert all(record.error is None for record in records)
    assert took_s < 0.5


def test_stop_while_an_engine_starts(server):
    (record,), _ = run(turn_plan(*lanes(server.url, {})), resolve=lambda lane: None, cancel_after_s=0.2)
    assert (record.finish_reason, record.timing) == (FinishReason.CANCELLED, None)


def test_one_request_alone_can_be_stopped(server):
    plan = turn_plan(*lanes(server.url, {"hang": True}, {"chunks": 3}))

    async def main():
        async with open_session() as session:
            around = Surroundings(session=session, resolve=resolve_remote, lease=no_lease)
            turn = Turn(plan, around, lambda update: None)
            asyncio.get_running_loop().call_later(0.2, turn.cancel, plan.requests[0].id)
            await turn.run()
            return turn.records()

    records = asyncio.run(main())
    assert [record.finish_reason for record in records] == [FinishReason.CANCELLED, FinishReason.STOP]


def test_a_turn_waits_for_the_device_of_another_and_can_be_stopped_there(server, tmp_path):
    def on_cpu(lane):
        return replace(resolve_remote(lane), device="cpu")

    async def main():
        async with open_session() as session:
            around = Surroundings(
                session=session, resolve=on_cpu, lease=no_lease, devices=DeviceQueue(tmp_path)
            )
            updates = []
            first, second, third = (
                Turn(turn_plan(*lanes(server.url, {"chunks": 5, "interval_s": 0.1})), around, updates.append)
                for _ in range(3)
            )
            tasks = [asyncio.create_task(turn.run()) for turn in (first, second, third)]
            await asyncio.sleep(0.3)
            third.cancel()
            await asyncio.wait_for(tasks[2], 0.5)
            await asyncio.gather(*tasks)
            return first, second, third, updates

    first, second, third, updates = asyncio.run(main())
    assert window(first.records()[0])[1] <= window(second.records()[0])[0]
    assert third.records()[0].finish_reason is FinishReason.CANCELLED
    places = {
        turn: [u.place for u in updates if u.request_id == turn.plan.requests[0].id and u.place]
        for turn in (first, second, third)
    }
    assert sorted(places.values()) == [[], [1], [2]]


def test_lanes_of_one_turn_share_their_device_when_together(server, tmp_path):
    plan = turn_plan(*lanes(server.url, *[{"chunks": 3, "first_chunk_s": 0.2}] * 2), mode=Mode.TOGETHER)

    async def main():
        return await run_turn(
            plan,
            resolve=lambda lane: replace(resolve_remote(lane), device="cpu"),
            lease=no_lease,
            on_update=lambda update: None,
            cancel=asyncio.Event(),
            devices=DeviceQueue(tmp_path),
        )

    first, second = asyncio.run(main())
    assert window(second)[0] < window(first)[1]
    assert first.device == "cpu"


def test_a_length_that_the_server_did_not_keep_is_noted(server):
    sampling = Sampling(max_tokens=9, fixed_length=True)
    (record,), _ = run(turn_plan(*lanes(server.url, {"chunks": 3}), sampling=sampling))
    assert any("3 tokens instead of the 9" in note for note in record.notes)
    assert any("ignore_eos" in note for note in record.notes)


def test_missing_counts_are_noted(server):
    (record,), _ = run(turn_plan(*lanes(server.url, {"chunks": 3, "usage": "none"})))
    assert any("no token counts" in note for note in record.notes)


def test_a_timeout_is_its_lanes_error(server):
    (record,), _ = run(turn_plan(*lanes(server.url, {"hang": True})), timeouts=Timeouts(first_token_s=0.2))
    assert record.error.code == "first-token-timeout"


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
