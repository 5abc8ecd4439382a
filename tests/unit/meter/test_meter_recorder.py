import threading
import time
from dataclasses import replace

import pytest

from core.domain.turns import Growth, Machine, Phase, RequestRecord
from core.errors import StoreError
from core.meter import recorder as recorder_module
from core.meter.recorder import Recorder
from tests.unit.meter.meter_samples import remote_lane, turn_plan

MACHINE = Machine(host="h", platform="p", python="3")


class FakeStore:
    """Keeps what is written; fails while `broken`."""

    def __init__(self, broken=False):
        self.broken = broken
        self.turns, self.requests, self.writes = {}, {}, 0
        self.swept = threading.Event()
        self.spared = []

    def open(self):
        if self.broken:
            raise StoreError("The disk is full", hint="Make room.", code="store-full")

    def save_turn(self, plan, machine):
        self.open()
        self.turns[plan.id] = (plan, machine)

    def save_request(self, record):
        self.open()
        if record.turn_id not in self.turns:
            raise StoreError("unknown turn", code="store-unknown-turn")
        self.writes += 1
        self.requests[record.id] = record

    def save_growths(self, growths):
        self.open()
        self.writes += 1
        for growth in growths:
            if growth.record.turn_id in self.turns:
                known = self.requests.get(growth.record.id)
                text = known.text if known else ""
                self.requests[growth.record.id] = replace(growth.record, text=text + growth.record.text)

    def turn(self, turn_id):
        return None

    def interrupt_unfinished(self, *, exclude=()):
        self.spared.append(exclude)
        self.swept.set()
        return 0

    def close(self):
        pass


@pytest.fixture
def plan():
    return turn_plan(remote_lane("a", "http://host/v1", "m"))


def record_of(plan, **facts):
    request = plan.requests[0]
    return RequestRecord(
        id=request.id, turn_id=plan.id, lane=request.lane, messages=request.messages, **facts
    )


def start(store):
    recorder = Recorder(lambda: store, lambda: MACHINE)
    recorder.start()
    return recorder


def eventually(condition):
    deadline = time.monotonic() + 10
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    return condition()


def test_a_turn_is_written_before_its_requests_with_the_machine(plan):
    store = FakeStore()
    recorder = start(store)
    recorder.save_turn(plan)
    recorder.save_request(record_of(plan, phase=Phase.DONE, text="all"))
    recorder.close(5)
    assert store.turns[plan.id] == (plan, MACHINE)
    assert store.requests[plan.requests[0].id].text == "all"
    assert store.swept.is_set()
    assert recorder.problem is None


def test_a_broken_store_is_one_problem_and_the_newest_state_is_written_later(plan, monkeypatch):
    monkeypatch.setattr(recorder_module, "_RETRY_S", 0.05)
    store = FakeStore(broken=True)
    recorder = start(store)
    recorder.save_turn(plan)
    assert eventually(lambda: recorder.problem)
    assert recorder.problem.code == "store-full"
    for text in ("a", "ab", "abc"):
        recorder.save_request(record_of(plan, text=text))
    store.broken = False
    assert eventually(lambda: store.requests)
    recorder.close(5)
    assert recorder.problem is None
    assert store.requests[plan.requests[0].id].text == "abc"
    assert store.writes == 1


def growth_of(plan, text, **facts):
    return Growth(record=record_of(plan, phase=Phase.STREAMING, text=text, **facts), first_chunk=0)


def test_pieces_that_a_broken_store_missed_are_written_later_in_order(plan, monkeypatch):
    monkeypatch.setattr(recorder_module, "_RETRY_S", 0.05)
    store = FakeStore(broken=True)
    recorder = start(store)
    recorder.save_turn(plan)
    assert eventually(lambda: recorder.problem)
    for text in ("a", "b", "c"):
        recorder.save_growth(growth_of(plan, text))
    assert not recorder.has_saved(plan)
    store.broken = False
    assert eventually(lambda: store.requests)
    recorder.save_growth(growth_of(plan, "d"))
    assert eventually(lambda: recorder.has_saved(plan))
    recorder.close(5)
    assert store.requests[plan.requests[0].id].text == "abcd"
    assert recorder.problem is None


def test_pieces_that_could_not_be_written_stay_in_front_of_newer_ones(plan):
    recorder = Recorder(FakeStore, lambda: MACHINE)
    recorder.save_growth(growth_of(plan, "a"))
    taken = recorder._next_growths()
    recorder.save_growth(growth_of(plan, "b"))
    recorder._put_back_growths(taken)
    assert [growth.record.text for [*pieces] in recorder._next_growths() for growth in pieces] == [
        "a",
        "b",
    ]


def test_a_whole_record_stands_for_all_pieces(plan):
    recorder = Recorder(FakeStore, lambda: MACHINE)
    recorder.save_growth(growth_of(plan, "a"))
    taken = recorder._next_growths()
    recorder.save_request(record_of(plan, phase=Phase.DONE, text="all"))
    recorder._put_back_growths(taken)
    assert recorder._next_growths() == []


def test_an_unexpected_error_of_the_store_is_a_problem_too(plan):
    class Odd(FakeStore):
        def save_turn(self, plan, machine):
            raise RuntimeError("a bug")

    recorder = start(Odd())
    recorder.save_turn(plan)
    assert eventually(lambda: recorder.problem)
    assert recorder.problem.code == "store"
    recorder.close(5)


def test_closing_with_a_broken_store_does_not_hang(plan):
    recorder = start(FakeStore(broken=True))
    recorder.save_turn(plan)
    assert eventually(lambda: recorder.problem)
    started = time.monotonic()
    recorder.close(20)
    assert time.monotonic() - started < 10


def test_a_request_whose_turn_was_deleted_holds_up_no_other(plan):
    other = turn_plan(remote_lane("b", "http://host/v1", "m"))
    store = FakeStore()
    recorder = start(store)
    recorder.save_request(record_of(replace(plan, id="deleted"), text="x"))
    recorder.save_turn(other)
    recorder.save_request(record_of(other, text="y"))
    recorder.close(5)
    assert [record.text for record in store.requests.values()] == ["y"]
    assert recorder.problem is None


def test_a_sweep_spares_own_turns_and_after_the_last_no_turn_is_remembered(plan, monkeypatch):
    monkeypatch.setattr(recorder_module, "_SWEEPS_S", (0.0,))
    store = FakeStore()
    recorder = Recorder(lambda: store, lambda: MACHINE)
    recorder.save_turn(plan)
    recorder.start()
    assert eventually(lambda: plan.id in store.turns)
    assert store.spared == [(plan.id,)]
    assert eventually(lambda: not recorder._own_turns)
    recorder.save_turn(replace(plan, id="later"))
    recorder.close(5)
    assert "later" in store.turns
    assert not recorder._own_turns
