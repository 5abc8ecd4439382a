"""The next measured request after one that was stopped."""

import asyncio
import time
from dataclasses import replace

import pytest

from core.chat_api.client import Timeouts
from core.domain.turns import FinishReason, Phase
from core.engines.requests import Unfinished
from core.meter import devices
from core.meter.turns import run_turn
from tests.unit.meter.meter_samples import model, no_lease, remote_lane, resolve_remote, turn_plan

BUSY = Unfinished(lanes=("hf",))


class Notes:
    """Stands in for the notes of a home: what it says at each look, the last for ever."""

    def __init__(self, *said):
        self.said = list(said)
        self.left = []
        self.looks = 0

    def note(self, endpoint):
        self.left.append(endpoint.url)

    def before(self, endpoint):
        self.looks += 1
        return self.said.pop(0) if len(self.said) > 1 else self.said[0]


@pytest.fixture(autouse=True)
def _quick_looks(monkeypatch):
    monkeypatch.setattr(devices, "_BUSY_POLL_S", 0.01)


def run(server, notes, *, cancel_after_s=None, resolve=resolve_remote, timeouts=None, **scenario):
    updates = []

    async def main():
        cancel = asyncio.Event()
        if cancel_after_s is not None:
            asyncio.get_running_loop().call_later(cancel_after_s, cancel.set)
        return await run_turn(
            turn_plan(remote_lane("hf", server.url, model(**{"chunks": 2, **scenario}))),
            resolve=resolve,
            lease=no_lease,
            on_update=updates.append,
            cancel=cancel,
            stopped=notes,
            timeouts=timeouts or Timeouts(),
        )

    (record,) = asyncio.run(main())
    return record, [update.phase for update in updates]


def test_it_waits_until_the_engine_is_idle(server):
    notes = Notes(BUSY, BUSY, BUSY, Unfinished())
    record, phases = run(server, notes)
    assert record.finish_reason is FinishReason.STOP
    assert not any("stopped request" in note for note in record.notes)
    assert phases[0] is Phase.SETTLING
    assert notes.looks == 4


def test_its_clock_starts_after_the_waiting(server):
    class Slow(Notes):
        def before(self, endpoint):
            self.ended_ns = time.perf_counter_ns()
            return super().before(endpoint)

    notes = Slow(BUSY, Unfinished())
    record, _ = run(server, notes)
    assert record.timing.sent_ns > notes.ended_ns


def test_after_the_lanes_patience_it_is_sent_and_flagged(server):
    record, _ = run(server, Notes(BUSY), timeouts=Timeouts(first_token_s=0.3))
    assert record.finish_reason is FinishReason.STOP
    assert any("still finishing a stopped request" in note and "hf" in note for note in record.notes)


def test_a_server_that_does_not_say_is_flagged_at_once(server):
    notes = Notes(Unfinished(server_is_silent=True))
    record, phases = run(server, notes)
    assert Phase.SETTLING not in phases
    assert any("stopped shortly before" in note for note in record.notes)


def test_waiting_can_be_stopped(server):
    record, _ = run(server, Notes(BUSY), cancel_after_s=0.1)
    assert (record.finish_reason, record.timing) == (FinishReason.CANCELLED, None)


def test_an_engine_that_is_restarted_meanwhile_is_waited_for(server):
    asked = []

    def resolve(lane):
        asked.append(lane.name)
        return None if len(asked) in (3, 4) else replace(resolve_remote(lane), device="cpu")

    record, phases = run(server, Notes(BUSY, Unfinished()), resolve=resolve)
    assert record.finish_reason is FinishReason.STOP
    assert Phase.STARTING in phases


@pytest.mark.parametrize(
    ("scenario", "more"),
    [
        ({"hang": True}, {"cancel_after_s": 0.3}),
        ({"chunks": 100, "interval_s": 0.05}, {"cancel_after_s": 0.3}),
        ({"hang": True}, {"timeouts": Timeouts(first_token_s=0.2)}),
        ({"chunks": 5, "stall_after": 1}, {"timeouts": Timeouts(stall_s=0.2)}),
    ],
)
def test_a_request_that_is_left_before_its_end_is_noted(server, scenario, more):
    notes = Notes(Unfinished())
    run(server, notes, **more, **scenario)
    assert notes.left == [server.url]


@pytest.mark.parametrize(
    "scenario",
    [{"chunks": 3}, {"status": 500, "error": "no"}, {"chunks": 3, "error_after": 1, "error": "no"}],
)
def test_a_request_that_the_server_ended_is_not(server, scenario):
    notes = Notes(Unfinished())
    run(server, notes, **scenario)
    assert notes.left == []
