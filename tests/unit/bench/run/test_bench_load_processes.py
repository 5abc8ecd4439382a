"""Load from processes on nodes: other machines, whose clocks are others."""

import asyncio
import os
import signal
import time
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import psutil
import pytest

from core.bench.plan import Arrivals, Isolation, SendFrom, Workload
from core.bench.run.load import Extent, LaneLoad, arrivals
from core.bench.run.load_processes import Here, LoadProcesses, OnNode, shifted
from core.bench.run.split_load import Senders, SplitLoad
from core.bench.workload import ListedPrompts
from core.chat_api.client import Timeouts
from core.cluster import jobs
from core.cluster.protocol import Reply, Verb
from core.domain.conversation import Message, Role
from core.domain.specs import Dialect, Endpoint
from core.domain.turns import Place
from core.engines.resolve import Node
from core.errors import EngineError, InputError
from tests.unit.bench.bench_samples import NS, A, B, a_plan, a_request, a_timing, remote
from tests.unit.engines.engine_stand_ins import settings_in

AHEAD_NS = 1_000 * 1_000_000_000
OTHER_CLOCK = (
    "import time; ns, s = time.perf_counter_ns, time.perf_counter;"
    f"time.perf_counter_ns = lambda: ns() + {AHEAD_NS}; time.perf_counter = lambda: s() + {AHEAD_NS / NS};"
    "from core.bench.run.load_process import listen; listen()"
)
"""The program of a load process whose clock is ahead."""
PROMPTS = ListedPrompts([(Message(Role.USER, f"prompt {number}"),) for number in range(100)], "listed")
GPU1 = Node(name="gpu1", node_id="1", address="127.0.0.1")


class Link:
    """The way to agents, whose nodes are all this machine."""

    def __init__(self, home):
        self._home = home

    def ask(self, verb, *, node, secret):
        assert verb is Verb.LOAD
        before = {child.pid for child in psutil.Process().children()}
        port = jobs.start_load_process(self._home, "127.0.0.1", secret)
        (self.pid,) = {child.pid for child in psutil.Process().children()} - before
        return Reply(node=node, port=port)


@pytest.fixture
def link(tmp_path, monkeypatch):
    monkeypatch.setattr(jobs, "_LOAD_PROGRAM", OTHER_CLOCK)
    return Link(tmp_path / "node")


def send(folder, server, ways, act, extent):
    """One pass from these processes; the load, its requests, and the processes."""
    requests = []
    lane = remote("a", server.url, chunks=3)
    plan = a_plan(lane, workload=Workload(output_tokens=50))

    async def run():
        processes = LoadProcesses(
            settings_in(folder), plan, Timeouts(stall_s=0.5), requests.append, [way() for way in ways]
        )
        try:
            spec = lane.endpoint
            endpoint = Endpoint(url=spec.url, model=spec.model, dialect=spec.dialect)
            lane_load = LaneLoad(name="a", endpoint=endpoint, prompts=PROMPTS, next_prompt=10)
            load = SplitLoad(3, [lane_load], extent, processes, None)
            await load.warm_up(2, 2)
            await act(load)
        finally:
            processes.close()
        return load, processes

    load, processes = asyncio.run(run())
    return load, requests, processes


def test_a_schedule_is_kept_over_clocks_that_differ(tmp_path, server, link):
    ways = [partial(Here, tmp_path), partial(OnNode, link, GPU1)]
    began_ns = time.perf_counter_ns()

    async def act(load):
        await load.run_open(partial(arrivals, Arrivals.CONSTANT, 50.0, 7))

    load, requests, processes = send(tmp_path, server, ways, act, Extent(requests=12))
    here, there = processes.all
    assert (here.offset_ns, here.offset_error_ns) == (0, 0)
    assert abs(there.offset_ns - AHEAD_NS) <= there.offset_error_ns
    measured = [request for request in requests if not request.warmup]
    assert len(measured) == 12
    assert len({request.number for request in requests}) == len(requests)
    planned = sorted((request.planned_ns - load.start_ns) / NS for request in measured)
    assert planned == pytest.approx([number / 50 for number in range(12)], abs=1e-6)
    ended_ns = time.perf_counter_ns()
    for request in measured:
        times = (request.timing.sent_ns, *request.timing.chunk_ns, request.timing.ended_ns)
        assert began_ns < min(times) <= max(times) < ended_ns
    (note,) = load.notes["a"]
    assert note.startswith("sent from node gpu1, whose clock is known to within")


def test_latencies_are_as_the_node_measured_them():
    request = a_request(1, "a", timing=a_timing(), planned_ns=5)
    moved = shifted(request, -AHEAD_NS)
    assert moved.planned_ns == 5 - AHEAD_NS
    assert moved.timing.sent_ns == request.timing.sent_ns - AHEAD_NS
    assert moved.timing.ttft_s == request.timing.ttft_s
    assert moved.timing.tpot_s == request.timing.tpot_s
    assert moved.timing.e2e_s == request.timing.e2e_s
    assert shifted(replace(request, timing=None), 7) == replace(request, timing=None)


def test_a_process_that_dies_on_its_node_is_named(tmp_path, server, link):
    async def act(load):
        running = asyncio.create_task(load.run_closed(1))
        while not load.finished:
            await asyncio.sleep(0.01)
        os.kill(link.pid, signal.SIGKILL)
        await running

    with pytest.raises(EngineError, match="on node gpu1 ended unexpectedly"):
        send(tmp_path, server, [partial(OnNode, link, GPU1)], act, Extent(requests=10_000))


def test_nobody_else_can_use_a_load_process(tmp_path, monkeypatch):
    ask = Link(tmp_path / "node").ask
    stranger = SimpleNamespace(ask=lambda verb, *, node, secret: ask(verb, node=node, secret="another"))
    with pytest.raises(EngineError, match="can't be reached") as caught:
        OnNode(stranger, GPU1)
    assert caught.value.code == "load-process-unreachable"


def test_a_process_that_ends_at_once_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(jobs, "_LOAD_PROGRAM", "raise SystemExit(3)")
    with pytest.raises(EngineError, match="ended before it was ready"):
        OnNode(Link(tmp_path), GPU1)


def test_requests_from_nodes_need_a_cluster(tmp_path):
    with pytest.raises(InputError, match="no cluster"):
        Senders(settings_in(tmp_path), a_plan(A, send_from=SendFrom.NODES), Timeouts(), print)


def test_lanes_together_are_not_measured_on_their_nodes():
    with pytest.raises(InputError, match="run together"):
        a_plan(A, B, isolation=Isolation.TOGETHER, send_from=SendFrom.ENGINE)


def test_from_here_the_place_is_as_seen_from_here(tmp_path):
    senders = Senders(settings_in(tmp_path), a_plan(A), Timeouts(), print)
    endpoint = Endpoint(url="http://127.0.0.1:1/v1", model="m", dialect=Dialect.GENERIC)
    assert asyncio.run(senders.place(endpoint)) == Place(over_network=False)
    assert asyncio.run(senders.of([endpoint])) is None
