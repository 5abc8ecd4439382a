"""Load from several processes: the same requests, at the same times, in one record."""

import asyncio
import os
import signal
from dataclasses import replace
from functools import partial
from itertools import pairwise

import pytest

from core.bench.plan import Arrivals, BenchPlan, Load, LoadKind, Workload
from core.bench.run import load_process
from core.bench.run.load import Extent, LaneLoad, arrivals
from core.bench.run.load_processes import LoadProcesses
from core.bench.run.split_load import SplitLoad, processes_for, share
from core.bench.workload import ListedPrompts
from core.chat_api.client import Timeouts
from core.domain.conversation import Message, Role, StoredImage
from core.domain.specs import Endpoint, EngineKind
from core.domain.turns import FinishReason
from core.errors import EngineError, InputError
from tests.quick_processes import quick
from tests.unit.bench.bench_samples import HF, NS, a_plan, remote
from tests.unit.engines.engine_stand_ins import settings_in

PROMPTS = ListedPrompts([(Message(Role.USER, f"prompt {number}"),) for number in range(100)], "listed")


class Forked:
    """The way to a process that serves as one that is started does, and is there at once."""

    node = None

    def __init__(self):
        self.connection, theirs = quick.Pipe()
        self.process = quick.Process(target=serve_load, args=(theirs,), daemon=True)
        self.process.start()
        theirs.close()

    @property
    def exit_code(self):
        return self.process.exitcode

    def end(self):
        self.process.join(10)


def serve_load(connection):
    asyncio.run(load_process.serve(connection))


class Sent:
    """One pass of a plan over several processes, which are `started` as a load test starts them, or forks."""

    def __init__(self, folder, lane, *, workers=2, started=False, **plan):
        self.started = started
        self.plan = a_plan(lane, workers=workers, workload=Workload(output_tokens=50), **plan)
        self.lane = lane
        self.folder = folder
        self.requests = []
        self.load = None

    def run(self, act, extent, *, width=None, warmup=0):
        async def send():
            processes = LoadProcesses(
                settings_in(self.folder),
                self.plan,
                Timeouts(stall_s=0.5),
                self.requests.append,
                None if self.started else [Forked() for _ in range(self.plan.workers)],
            )
            try:
                self.load = SplitLoad(3, [self._lane_load()], extent, processes, width)
                await self.load.warm_up(warmup, width or warmup)
                await act(self.load, processes)
            finally:
                processes.close()
            return [process.exit_code for process in processes.all]

        return asyncio.run(send())

    def _lane_load(self):
        spec = self.lane.endpoint
        endpoint = Endpoint(url=spec.url, model=spec.model, dialect=spec.dialect)
        return LaneLoad(name=self.lane.name, endpoint=endpoint, prompts=PROMPTS, next_prompt=10)

    @property
    def measured(self):
        return sorted((r for r in self.requests if not r.warmup), key=lambda r: r.timing.sent_ns)


def asked(server):
    return sorted(each.body["messages"][0]["content"] for each in server.seen)


def test_a_schedule_is_dealt_out_without_changing_its_times(tmp_path, server):
    sent = Sent(tmp_path, remote("a", server.url, chunks=3), workers=3, started=True)
    schedule = [offset for offset, _ in zip(arrivals(Arrivals.POISSON, 50.0, 7), range(20), strict=False)]

    async def act(load, _processes):
        await load.run_open(partial(arrivals, Arrivals.POISSON, 50.0, 7))

    assert sent.run(act, Extent(requests=20)) == [0, 0, 0]
    planned = [(request.planned_ns - sent.load.start_ns) / NS for request in sent.measured]
    assert sorted(planned) == pytest.approx(schedule, abs=1e-8)
    assert all(request.timing.sent_ns >= request.planned_ns for request in sent.measured)
    assert len({request.number for request in sent.requests}) == 20
    assert asked(server) == sorted(f"prompt {number}" for number in range(10, 30))
    assert sent.load.finished == 20
    assert sent.load.tokens == {"a": 60}
    assert {request.pass_number for request in sent.requests} == {3}


def test_a_concurrency_is_kept_by_all_together(tmp_path, server):
    sent = Sent(tmp_path, remote("a", server.url, chunks=4, interval_s=0.02), workers=2)

    async def act(load, _processes):
        await load.run_closed(5)

    sent.run(act, Extent(requests=21), width=5, warmup=3)
    assert len(sent.measured) == 21
    assert len(sent.requests) == 24
    assert len(set(asked(server))) == 24
    assert all(request.timing.sent_ns >= sent.load.start_ns for request in sent.measured)
    marks = sorted(
        [(r.timing.sent_ns, 1) for r in sent.measured] + [(r.timing.ended_ns, -1) for r in sent.measured]
    )
    under_way = most = 0
    for _, change in marks:
        under_way += change
        most = max(most, under_way)
    assert most == 5
    assert sent.load.end_ns >= max(request.timing.ended_ns for request in sent.measured)


def test_no_more_processes_take_part_than_there_are_requests_at_once(tmp_path, server):
    sent = Sent(tmp_path, remote("a", server.url, chunks=2, interval_s=0.01), workers=3)

    async def act(load, _processes):
        await load.run_closed(1)

    sent.run(act, Extent(requests=4), width=1)
    assert all(before.timing.ended_ns <= after.timing.sent_ns for before, after in pairwise(sent.measured))
    assert len(sent.measured) == 4


def test_failures_and_notes_come_back(tmp_path, server):
    lane = remote("a", server.url, {"status": 500, "error": "no"}, {"chunks": 2}, dialect="lmdeploy")
    sent = Sent(tmp_path, lane)

    async def act(load, _processes):
        await load.run_closed(2)

    sent.run(act, Extent(requests=4), width=2)
    assert [request.failed for request in sent.measured].count(True) == 2
    assert any("no" in request.error.message for request in sent.measured if request.failed)


def test_stopping_hands_back_what_is_under_way_as_cancelled(tmp_path, server):
    sent = Sent(tmp_path, remote("a", server.url, chunks=1000, interval_s=0.05))

    async def act(load, _processes):
        work = asyncio.create_task(load.run_closed(4))
        while len(server.seen) < 4:
            await asyncio.sleep(0.01)
        work.cancel()
        await asyncio.wait((work,))
        assert work.cancelled()

    sent.run(act, Extent(requests=8), width=4)
    assert [request.finish_reason for request in sent.requests] == [FinishReason.CANCELLED] * 4


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_what_stops_the_whole_group_is_left_to_the_first_process(tmp_path, server, number):
    sent = Sent(tmp_path, remote("a", server.url, chunks=10, interval_s=0.02), started=True)

    async def act(load, processes):
        work = asyncio.create_task(load.run_closed(2))
        while len(server.seen) < 2:
            await asyncio.sleep(0.01)
        for process in processes.all:
            os.kill(process._way.process.pid, number)
        await work

    assert sent.run(act, Extent(requests=4), width=2) == [0, 0]
    assert len(sent.measured) == 4


def test_a_killed_process_fails_the_pass_and_ends_the_others(tmp_path, server):
    sent = Sent(tmp_path, remote("a", server.url, chunks=1000, interval_s=0.05), started=True)

    async def act(load, processes):
        work = asyncio.create_task(load.run_closed(2))
        while len(server.seen) < 2:
            await asyncio.sleep(0.01)
        os.kill(processes.all[0]._way.process.pid, signal.SIGKILL)
        with pytest.raises(EngineError) as caught:
            await work
        assert caught.value.code == "load-process-ended"

    assert sent.run(act, Extent(requests=8), width=2) == [-signal.SIGKILL, 0]


@pytest.mark.parametrize(("amount", "of"), [(5, 2), (3, 4), (64, 12), (0, 3)])
def test_shares_add_up_and_are_equal_but_for_one(amount, of):
    shares = [share(amount, place, of) for place in range(of)]
    assert sum(shares) == amount
    assert max(shares) - min(shares) <= 1


class TestHowMany:
    def test_small_loads_and_small_machines_have_one(self):
        plan = a_plan(remote("a"), load=Load(concurrencies=(1, 32)), requests=32)
        assert processes_for(plan, 64) == 1
        assert processes_for(replace(plan, load=Load(concurrencies=(256,)), requests=256), 2) == 1

    def test_large_loads_have_one_for_32_requests_at_once_but_leave_most_cores(self):
        plan = a_plan(remote("a"), load=Load(concurrencies=(1, 128)), requests=128)
        assert processes_for(plan, 64) == 4
        assert processes_for(plan, 8) == 2

    def test_rates_by_the_chunks_that_they_make(self):
        load = Load(kind=LoadKind.OPEN, rates_req_per_s=(200.0,))
        plan = a_plan(remote("a"), load=load, workload=Workload(output_tokens=128))
        assert processes_for(plan, 64) == 3

    def test_engines_on_the_same_cpu_keep_it(self):
        plan = a_plan(HF, load=Load(concurrencies=(256,)), requests=256)
        assert HF.kind is EngineKind.TRANSFORMERS
        assert processes_for(plan, 64) == 1

    def test_images_are_sent_by_one(self):
        image = StoredImage(sha256="0" * 64, media_type="image/png", width_px=1, height_px=1, size_bytes=9)
        plan = a_plan(remote("a"), load=Load(concurrencies=(256,)), requests=256)
        assert processes_for(replace(plan, workload=Workload(images=(image,))), 64) == 1
        with pytest.raises(InputError, match="images"):
            BenchPlan(lanes=plan.lanes, workload=Workload(images=(image,)), requests=4, workers=2)
