"""Engines on the nodes of a real Ray cluster, and what is left when its parts are killed.

The tests follow one another over one cluster; each leaves it as it found it, but for the last.
"""

import http.client
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import psutil
import pytest

from core.cluster.control import ClusterEngines
from core.cluster.link import ClusterLink, find_process
from core.cluster.protocol import Verb
from core.codec import encode
from core.domain.runs import RunState
from core.domain.specs import ClusterSpec
from core.domain.walk import StepKind, StepState
from core.engines import supervisor
from core.engines.manager import EngineManager
from core.engines.registry import EngineState, Registry, lease
from core.engines.resolve import find_endpoint, read_snapshot
from core.engines.supervisor import Target
from core.errors import EngineCrashed, EngineError
from core.jobs.registry import Jobs, JobState
from core.walk.job import load as load_walk
from core.walk.job import start_walk
from tests.engines.fake_python import fake_python
from tests.engines.ray_cluster import ADDRESSES, RayCluster, environment, processes_of
from tests.unit.engines import engine_stand_ins
from tests.unit.engines.engine_stand_ins import FAKE_ENGINE, gone, lane_in, rows, settings_in

pytestmark = [
    pytest.mark.skipif(find_spec("ray") is None, reason="needs Ray, which comes with LMDeploy"),
    pytest.mark.timeout(900),
]

PATIENCE_S = 240
"""A slow machine takes its time; a deadline only says when to give up."""
OWNER = """
import sys
from pathlib import Path
from core.cluster.control import engines_of
from core.domain.specs import ClusterSpec
from core.codec import decode
from core.domain.specs import LaneSpec
from tests.unit.engines.engine_stand_ins import settings_in
settings = settings_in(Path(sys.argv[1]), end_engines_after="2")
lane = decode(LaneSpec, sys.argv[3])
engines = engines_of(settings, [lane], ClusterSpec(address=sys.argv[2]), wait=True)
engines.ensure(lane.name)
print(engines.wait_until_healthy(lane.name, 240).pid, flush=True)
sys.stdin.readline()
"""


@pytest.fixture(scope="module")
def cluster():
    cluster = RayCluster()
    before = dict(os.environ)
    os.environ.update(environment(cluster.folder))
    try:
        cluster.start()
        yield cluster
    finally:
        os.environ.clear()
        os.environ.update(before)
        cluster.close()


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    settings = settings_in(tmp_path_factory.mktemp("home"), end_engines_after="30")
    yield settings
    # Guardians would wait half a minute for the next agent.
    left = processes_of(settings.home)
    for process in left:
        with suppress(psutil.NoSuchProcess):
            process.terminate()
    _, left = psutil.wait_procs(left, timeout=60)
    assert not left


@pytest.fixture(scope="module")
def lanes(settings):
    """One lane for each node, one that a node serves slowly, and one of this machine."""
    python = fake_python(settings.home / "python", FAKE_ENGINE)
    slow = fake_python(settings.home / "slow", FAKE_ENGINE, "--chunks", "40", "--chunk-s", "0.1")

    def on(node, name, python):
        return replace(lane_in(settings.home, name, python=python, device="cpu"), node=node)

    return (
        on("alpha", "on-alpha", python),
        on("beta", "on-beta", python),
        on("beta", "slow", slow),
        lane_in(settings.home, "here"),
    )


@pytest.fixture(scope="module")
def engines(cluster, settings, lanes):
    here = EngineManager(settings, lanes, rows=rows(), grace_s=1.0)
    link = ClusterLink(settings, ClusterSpec(address=cluster.address))
    engines = ClusterEngines(settings, lanes, here, link)
    link.await_reports()
    wait_for(lambda: all((n := read_snapshot(settings).node(name)) and n.alive for name in ADDRESSES))
    engines.adopt_orphans()
    yield engines
    engines.close()
    if whereabouts := find_process(settings):
        os.kill(whereabouts.process.pid, signal.SIGTERM)
        wait_for(lambda: gone(whereabouts.process.pid))


@pytest.fixture
def running(engines):
    """Both nodes' lanes and this machine's, healthy; by name their status."""
    names = ("on-alpha", "on-beta", "here")
    for name in names:
        engines.ensure(name)
    return {name: engines.wait_until_healthy(name, PATIENCE_S) for name in names}


def wait_for(condition):
    return engine_stand_ins.wait_for(condition, PATIENCE_S)


def state(engines, name, wished):
    return wait_for(lambda: (now := engines.status(name)).state is wished and now)


def answer(url, timeout_s=PATIENCE_S):
    """The whole streamed answer of an engine."""
    host, port = url.removeprefix("http://").split("/")[0].split(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=timeout_s)
    connection.request("POST", "/v1/chat/completions", b"{}")
    return connection.getresponse().read().decode()


def test_lanes_answer_on_the_nodes_that_they_name(engines, running, settings, lanes):
    for name in ("alpha", "beta"):
        status = running[f"on-{name}"]
        assert (status.node, status.owned) == (name, True)
        assert status.url.startswith(f"http://{ADDRESSES[name]}:")
        lane = next(lane for lane in lanes if lane.name == f"on-{name}")
        assert find_endpoint(settings, lane).url == status.url
        assert "Paris" in answer(status.url)
        assert "Uvicorn running" in engines.log_tail(f"on-{name}")
    for node in read_snapshot(settings).nodes:
        assert (node.alive, node.ray_version, node.token_auth) == (True, "2.60.0", True)
        assert node.home == str(settings.home / "nodes" / node.name)
        assert node.sample is not None


def test_a_walk_on_a_node_leaves_the_nodes_engines_alone(
    engines, running, cluster, settings, lanes, monkeypatch
):
    there = next(lane for lane in lanes if lane.name == "on-beta")
    settings.lanes_file.write_text(
        f'[cluster]\naddress = "{cluster.address}"\n'
        f'[models.stand-in]\ncheckpoint = "{there.model.checkpoint}"\n'
        '[lanes.on-beta]\nengine = "transformers"\nmodel = "stand-in"\nnode = "beta"\n'
        f'device = "cpu"\npython = "{there.settings.python}"\n'
    )
    monkeypatch.setenv("LMDYNO_LANES", str(settings.lanes_file))
    monkeypatch.setenv("LMDYNO_DATABASE_URL", f"sqlite:///{settings.home / 'lmdyno.db'}")
    walk_id = start_walk(settings, node="beta")
    ended = Jobs(settings).wait(walk_id, 2 * PATIENCE_S)
    assert (ended.state, ended.record.error) == (JobState.DONE, None)
    run = load_walk(settings, walk_id)
    assert (run.node, run.state) == ("beta", RunState.DONE)
    chat = next(step for step in run.steps if step.kind is StepKind.TRANSFORMERS)
    assert chat.state is StepState.DONE
    assert ["Paris" in each.text for each in chat.answers] == [True, True]
    assert engines.status("on-beta").pid == running["on-beta"].pid
    of_walk = Registry(settings_in(settings.home / "nodes" / "beta" / "walk")).read()
    assert {name: entry.alive for name, entry in of_walk.items()} == {"on-beta": False, "api-server": False}


def test_an_engine_that_is_killed_fails_its_lane_alone(engines, running):
    os.kill(running["on-beta"].pid, signal.SIGKILL)
    failed = state(engines, "on-beta", EngineState.FAILED)
    assert "beta" in failed.error.message
    assert engines.status("on-alpha").pid == running["on-alpha"].pid
    engines.ensure("on-beta")
    assert engines.wait_until_healthy("on-beta", PATIENCE_S).pid != running["on-beta"].pid


def test_an_agent_that_is_killed_leaves_its_engines_to_the_next(engines, running, cluster, settings):
    agent = cluster.nodes["beta"].agent()
    before = read_snapshot(settings).node("beta").reported_at
    agent.kill()
    wait_for(lambda: gone(agent.pid))
    assert "Paris" in answer(running["on-beta"].url)
    wait_for(lambda: (n := read_snapshot(settings).node("beta")).alive and n.reported_at > before)
    assert wait_for(cluster.nodes["beta"].agent).pid != agent.pid
    back = state(engines, "on-beta", EngineState.HEALTHY)
    assert back.pid == running["on-beta"].pid
    engines.stop("on-beta")
    assert gone(back.pid)


def test_a_cluster_process_that_is_killed_loses_no_engine(engines, running, settings):
    process = find_process(settings).process
    os.kill(process.pid, signal.SIGKILL)
    wait_for(lambda: (found := find_process(settings)) and found.process != process)
    back = {name: state(engines, name, EngineState.HEALTHY) for name in running}
    assert {name: now.pid for name, now in back.items()} == {name: now.pid for name, now in running.items()}
    assert all(now.owned for now in back.values())


def test_a_node_that_dies_fails_its_lanes_and_gives_them_back(engines, running, cluster, settings, lanes):
    died_s = time.monotonic()
    cluster.nodes["beta"].kill()
    lost = state(engines, "on-beta", EngineState.FAILED)
    print(f"seen after {time.monotonic() - died_s:.1f} s")  # noqa: T201 - a figure, asserted nowhere
    assert lost.error.code == "node-silent"
    assert "beta stopped answering" in lost.error.message
    assert "ray start" in lost.error.hint
    with pytest.raises(EngineError) as caught:
        find_endpoint(settings, lanes[1])
    assert caught.value.code == "node-silent"
    for name in ("on-alpha", "here"):
        assert engines.status(name).pid == running[name].pid
        assert "Paris" in answer(running[name].url)
    cluster.nodes["beta"].start()
    back = state(engines, "on-beta", EngineState.HEALTHY)
    assert back.pid == running["on-beta"].pid
    assert "Paris" in answer(back.url)
    engines.restart("on-beta")
    assert engines.wait_until_healthy("on-beta", PATIENCE_S).pid != back.pid
    assert gone(back.pid)


def test_a_dashboard_that_is_killed_in_mid_answer_ends_nothing_before_its_end(cluster, settings, lanes):
    slow = lanes[2]
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER, str(settings.home), cluster.address, encode(slow).decode()],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    pid = int(owner.stdout.readline())
    with lease(settings, "slow"):
        url = find_endpoint(settings, slow).url
        owner.kill()
        owner.wait()
        owner.stdin.close()
        owner.stdout.close()
        assert answer(url).count("Paris") > 1
        assert not gone(pid)


def test_a_wrong_token_is_told(cluster, tmp_path, monkeypatch):
    (tmp_path / "token").write_text("0" * 64)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setenv("RAY_NUM_REDIS_GET_RETRIES", "1")  # each takes a second
    link = ClusterLink(settings_in(tmp_path / "home"), ClusterSpec(address=cluster.address))
    with pytest.raises(EngineCrashed) as caught:
        link.ask(Verb.CLOSE)
    link.close()
    assert caught.value.code == "cluster-lost"
    assert "token" in caught.value.hint


def test_a_head_that_dies_leaves_this_machine_alone(engines, running, cluster, settings):
    for node in reversed(cluster.nodes.values()):
        node.kill()
    lost = state(engines, "on-alpha", EngineState.FAILED)
    assert lost.error.code in ("cluster-lost", "cluster-process-died", "node-silent")
    assert "Paris" in answer(running["here"].url)
    # Ray is gone and no agent comes again: what runs would end only after LMDYNO_END_ENGINES_AFTER.
    for node in ADDRESSES:
        home = settings_in(settings.home / "nodes" / node)
        for entry in Registry(home).read().values():
            supervisor.end([Target(entry.process, entry.start_id)], grace_s=1.0)
