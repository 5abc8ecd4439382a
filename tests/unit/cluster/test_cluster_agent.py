"""What an agent does on its node, without Ray: engines, reports, adoption, and an end when nobody asks."""

import threading
from dataclasses import replace

import pytest

from core import __version__
from core.cluster import agent as agent_module
from core.cluster.agent import Agent
from core.cluster.protocol import Answer, Request, Verb
from core.codec import decode, encode
from core.domain.specs import EngineKind
from core.engines.registry import EngineState, Registry
from core.settings import Settings
from core.telemetry.samples import GpuFacts
from tests.unit.engines.engine_stand_ins import gone, lane_in, row, rows, wait_for

GIB = 2**30
LOOPBACK = "127.0.0.5"


@pytest.fixture
def lane(tmp_path):
    return lane_in(tmp_path, "hf")


@pytest.fixture
def make(tmp_path):
    made = []

    def make(**more):
        table = more.pop("rows", rows())
        made.append(Agent(str(tmp_path / "node"), "beta", LOOPBACK, rows=table, grace_s=1.0, **more))
        return made[-1]

    yield make
    for agent in made:
        agent.close()


def ask(agent, verb, lane=None, *, end_after="never", **more):
    request = Request(verb=verb, lmdyno_version=__version__, end_engines_after=end_after, lane=lane, **more)
    return decode(Answer, agent.answer(encode(request)))


def engine(agent, name="hf", **more):
    report = ask(agent, Verb.REPORT, **more).report
    return next((engine for engine in report.engines or () if engine.name == name), None)


def healthy(agent, lane, **more):
    assert ask(agent, Verb.ENSURE, lane, **more).error is None
    after = more.get("end_after", "never")
    return wait_for(lambda: (e := engine(agent, end_after=after)) and e.state is EngineState.HEALTHY and e)


def test_an_engine_listens_on_the_nodes_address(make, lane):
    agent = make(ray_version="2.60.0", token_auth=True)
    started = ask(agent, Verb.ENSURE, lane).report.engines[0]
    assert started.state is EngineState.STARTING
    running = healthy(agent, lane)
    assert running.endpoint.url == f"http://{LOOPBACK}:{running.port}/v1"
    assert (running.endpoint.node, running.endpoint.device) == ("beta", "cpu")
    assert "Uvicorn running" in ask(agent, Verb.LOG, lane, lines=5).text
    told = ask(agent, Verb.REPORT).report
    assert (told.ray_version, told.token_auth, told.lmdyno_version) == ("2.60.0", True, __version__)
    assert wait_for(lambda: ask(agent, Verb.REPORT).report.sample)
    stopped = ask(agent, Verb.STOP, lane).report.engines[0]
    assert stopped.state is EngineState.STOPPED
    assert gone(running.pid)


def test_engines_are_told_once_until_they_differ(make, lane):
    agent = make()
    healthy(agent, lane)
    told = ask(agent, Verb.REPORT).report
    again = ask(agent, Verb.REPORT, revision=told.revision).report
    assert (again.engines, again.revision) == (None, told.revision)
    changed = ask(agent, Verb.STOP, lane, revision=told.revision).report
    assert changed.engines
    assert changed.revision != told.revision


def test_a_model_that_is_not_on_the_node_is_told_with_its_path(make, lane):
    agent = make()
    missing = replace(lane, model=replace(lane.model, checkpoint="/nowhere/model"))
    ask(agent, Verb.ENSURE, missing)
    failed = wait_for(lambda: (e := engine(agent)) and e.state is EngineState.FAILED and e)
    assert failed.error.code == "model-not-here"
    assert "/nowhere/model" in failed.error.message
    assert "beta" in failed.error.message


def test_the_next_agent_takes_over_what_the_last_one_left(make, lane, tmp_path):
    first = make()
    running = healthy(first, lane)
    # As if the first had been killed: its process is gone, its engine runs.
    settings = Settings(home=tmp_path / "node", lanes_file=tmp_path / "l", database_url="")
    with Registry(settings).changing() as engines:
        entry = engines["hf"]
        dead = replace(entry.owner, pid=2**22 - 1)
        engines["hf"] = replace(entry, owner=dead, worker=dead)
    second = make()
    adopted = wait_for(lambda: (e := engine(second)) and e.state is EngineState.HEALTHY and e)
    assert (adopted.pid, adopted.start_id) == (running.pid, running.start_id)
    wait_for(lambda: Registry(settings).get("hf").owner.alive)


def test_engines_end_when_nobody_asks_any_more(make, lane, monkeypatch):
    monkeypatch.setattr(agent_module, "_LOOK_S", 0.05)
    agent = make()
    running = healthy(agent, lane, end_after="30")
    ask(agent, Verb.REPORT, end_after="0.5")
    wait_for(lambda: gone(running.pid))


def test_engines_that_outlive_lmdyno_stay_when_nobody_asks(make, lane, monkeypatch):
    monkeypatch.setattr(agent_module, "_LOOK_S", 0.02)
    agent = make()
    running = healthy(agent, lane, end_after="0.5", persistent=True)
    looked = threading.Event()
    monkeypatch.setattr(agent, "_end_engines", _noting(agent._end_engines, looked))
    assert looked.wait(20)
    assert not gone(running.pid)
    ask(agent, Verb.STOP, lane)


def _noting(work, event):
    def noted():
        work()
        event.set()

    return noted


def test_an_engine_in_use_is_not_stopped(make, lane):
    agent = make()
    healthy(agent, lane)
    ask(agent, Verb.REPORT, in_use=("hf",))
    assert ask(agent, Verb.REPORT, in_use=("hf",)).error is None
    wait_for(lambda: engine(agent, in_use=("hf",)).state is EngineState.HEALTHY)
    assert ask(agent, Verb.STOP, lane, force=True).report.engines[0].state is EngineState.STOPPED


def test_another_version_is_refused(make):
    answer = decode(Answer, make().answer(encode(Request(verb=Verb.REPORT, lmdyno_version="0.0.1"))))
    assert answer.error.code == "node-version"
    assert "0.0.1" in answer.error.message


def test_what_is_no_request_is_an_error(make):
    assert decode(Answer, make().answer(b"{}")).error.code == "bad-record"


@pytest.mark.parametrize(("free_bytes", "fits"), [(80 * GIB, True), (GIB // 2, False)])
def test_room_is_weighed_by_the_nodes_gpus(make, tmp_path, monkeypatch, free_bytes, fits):
    lane = lane_in(tmp_path, "tm", EngineKind.TURBOMIND)
    facts = GpuFacts(index=0, name="H200", total_bytes=141 * GIB, free_bytes=free_bytes)
    monkeypatch.setattr(agent_module.Nvml, "devices", lambda self: (facts,))
    agent = make(rows={EngineKind.TURBOMIND: row(needs_gpu=True)})
    weighed = ask(agent, Verb.WEIGH, lane).weighed
    assert (weighed.fits, weighed.free_bytes) == (fits, free_bytes)


def test_a_node_without_a_gpu_says_so(make, tmp_path):
    lane = lane_in(tmp_path, "tm", EngineKind.TURBOMIND)
    answer = ask(make(rows={EngineKind.TURBOMIND: row(needs_gpu=True)}), Verb.WEIGH, lane)
    assert answer.error.code == "no-gpu"


def test_a_slow_answer_delays_no_other(make, lane, monkeypatch):
    agent = make()
    healthy(agent, lane)
    began = threading.Event()
    go_on = threading.Event()

    def slow(*_args, **_more):
        began.set()
        go_on.wait(20)
        return ""

    monkeypatch.setattr(agent_module.EngineManager, "log_tail", slow)
    thread = threading.Thread(target=ask, args=(agent, Verb.LOG, lane))
    thread.start()
    assert began.wait(20)
    assert ask(agent, Verb.REPORT).report is not None
    assert thread.is_alive()
    go_on.set()
    thread.join(20)
