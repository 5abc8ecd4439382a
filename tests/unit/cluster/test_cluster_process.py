"""The cluster's process over nodes that are functions: what it tells, and what it does with commands."""

import asyncio
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from core.cluster import process, tracking
from core.cluster.process import Hub
from core.cluster.protocol import Command, Verb
from core.domain.specs import EngineKind, LaneSpec
from core.domain.turns import ErrorInfo
from core.engines.registry import lease
from core.engines.resolve import read_snapshot
from core.telemetry.processes import ProcessId, this_process
from tests.unit.cluster.fake_fabric import GIB, FakeFabric, ScriptedAgent, gpu
from tests.unit.engines.engine_stand_ins import settings_in

LANE = LaneSpec(name="hf", kind=EngineKind.TURBOMIND)
DEAD = ProcessId(2**22 - 1, 1.0)


@pytest.fixture
def settings(tmp_path):
    return settings_in(tmp_path, end_engines_after="0.05")


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(process, "ASK_INTERVAL_S", 0.02)
    monkeypatch.setattr(process, "ASK_TIMEOUT_S", 0.1)
    monkeypatch.setattr(process, "_NODES_INTERVAL_S", 0.02)
    monkeypatch.setattr(process, "_WRITE_INTERVAL_S", 0.02)
    monkeypatch.setattr(tracking, "SILENT_S", 0.3)


@pytest.fixture
def fabric():
    return FakeFabric(
        {
            "alpha": ScriptedAgent("alpha", gpus=(gpu(free_bytes=20 * GIB),)),
            "beta": ScriptedAgent("beta", gpus=(gpu(free_bytes=60 * GIB),)),
        }
    )


@asynccontextmanager
async def running(settings, fabric):
    hub = Hub(settings, "auto", fabric)
    task = asyncio.create_task(hub.run())
    await until(lambda: all(node.alive for node in hub.snapshot().nodes) and hub.snapshot().nodes)
    yield hub
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def until(condition):
    async with asyncio.timeout(20):
        while not (value := condition()):
            await asyncio.sleep(0.01)
    return value


def command(verb, lane=LANE, sender=None, **more):
    return Command(verb=verb, sender=sender or this_process(), lane=lane, **more)


def with_hub(settings, fabric, scenario):
    async def run():
        async with running(settings, fabric) as hub:
            await scenario(hub)

    asyncio.run(run())


def test_nodes_are_told_with_their_gpus_and_versions(settings, fabric):
    async def scenario(hub):
        told = await until(lambda: (s := read_snapshot(settings)) and len(s.nodes) == 2 and s)
        alpha = told.node("alpha")
        assert alpha.alive
        assert (alpha.cores, alpha.gpus[0].free_bytes, alpha.token_auth) == (8, 20 * GIB, True)
        assert alpha.ray_version == "2.60.0"

    with_hub(settings, fabric, scenario)


def test_a_lane_without_a_node_goes_where_most_memory_stays_free(settings, fabric):
    async def scenario(hub):
        reply = await hub.obey(command(Verb.ENSURE))
        assert (reply.error, reply.node) == (None, "beta")
        told = read_snapshot(settings)
        assert told.node("beta").engine("hf").endpoint.api_key == "k"
        assert told.placement("hf").named is False
        assert (await hub.obey(command(Verb.LOG, lines=5))).text == "log of hf"

    with_hub(settings, fabric, scenario)


def test_a_lane_that_fits_nowhere_says_what_is_free(settings, fabric):
    for agent in fabric.agents.values():
        agent.need_bytes = 100 * GIB

    async def scenario(hub):
        error = (await hub.obey(command(Verb.ENSURE))).error
        assert error.code == "cluster-full"
        assert "alpha 20.00 GiB, beta 60.00 GiB" in error.hint

    with_hub(settings, fabric, scenario)


def test_a_lane_goes_to_the_node_that_it_names_and_leaves_its_former_one(settings, fabric):
    async def scenario(hub):
        assert (await hub.obey(command(Verb.ENSURE, replace(LANE, node="alpha")))).node == "alpha"
        assert (await hub.obey(command(Verb.ENSURE, replace(LANE, node="beta")))).node == "beta"
        assert fabric.agents["alpha"].engines == {}
        assert "hf" in fabric.agents["beta"].engines
        assert (await hub.obey(command(Verb.STOP, replace(LANE, node="beta")))).error is None
        assert fabric.agents["beta"].engines == {}

    with_hub(settings, fabric, scenario)


def test_a_node_that_there_is_not_is_told_with_those_that_there_are(settings, fabric):
    async def scenario(hub):
        error = (await hub.obey(command(Verb.ENSURE, replace(LANE, node="gamma")))).error
        assert error.code == "node-unknown"
        assert "alpha, beta" in error.hint

    with_hub(settings, fabric, scenario)


def test_a_node_that_falls_silent_takes_no_other_along(settings, fabric):
    async def scenario(hub):
        await hub.obey(command(Verb.ENSURE, replace(LANE, node="beta")))
        fabric.silent.add("beta")
        lost = await until(lambda: (s := read_snapshot(settings)) and not s.node("beta").alive and s)
        assert lost.node("beta").problem.code == "node-silent"
        assert "beta stopped answering" in lost.node("beta").problem.message
        assert lost.node("beta").engine("hf") is not None
        assert lost.node("alpha").alive
        error = (await hub.obey(command(Verb.ENSURE, replace(LANE, node="beta")))).error
        assert error.code == "node-silent"
        fabric.silent.clear()
        await until(lambda: read_snapshot(settings).node("beta").alive)

    with_hub(settings, fabric, scenario)


def test_a_node_that_returns_tells_what_it_has_now(settings, fabric):
    async def scenario(hub):
        await hub.obey(command(Verb.ENSURE, replace(LANE, node="beta")))
        fabric.gone.add("beta")
        await until(lambda: not read_snapshot(settings).node("beta").alive)
        fabric.agents["beta"] = ScriptedAgent("beta")
        fabric.starts["beta"] = 1
        fabric.gone.clear()
        back = await until(lambda: (n := read_snapshot(settings).node("beta")).alive and n)
        assert back.node_id == "beta-1"
        assert back.engines == ()

    with_hub(settings, fabric, scenario)


def test_a_node_that_returns_before_its_death_is_noticed_stays(settings, fabric):
    async def scenario(hub):
        fabric.starts["beta"] = 1
        fabric.ghosts.add("beta")
        await until(lambda: (n := read_snapshot(settings).node("beta")).alive and n.node_id == "beta-1")
        agent = fabric.agents["beta"]
        asked = len(agent.asked)
        await until(lambda: len(agent.asked) > asked + 5)
        assert hub.snapshot().node("beta").node_id == "beta-1"
        assert hub.snapshot().node("beta").alive

    with_hub(settings, fabric, scenario)


def test_an_agent_that_refuses_tells_why(settings, fabric):
    async def scenario(hub):
        fabric.agents["beta"].refusal = ErrorInfo("node-version", "Node beta has LMDyno 0.1.")
        node = await until(lambda: not (n := read_snapshot(settings).node("beta")).alive and n)
        assert node.problem.code == "node-version"

    with_hub(settings, fabric, scenario)


def test_engines_are_told_again_only_when_they_differ(settings, fabric):
    async def scenario(hub):
        await hub.obey(command(Verb.ENSURE, replace(LANE, node="beta")))
        agent = fabric.agents["beta"]
        before = len(agent.asked)
        await until(lambda: len(agent.asked) > before + 2)
        assert agent.asked[-1].revision == agent.revision
        assert read_snapshot(settings).node("beta").engine("hf") is not None

    with_hub(settings, fabric, scenario)


def test_agents_learn_which_engines_answer_requests(settings, fabric):
    async def scenario(hub):
        await hub.obey(command(Verb.ENSURE, replace(LANE, node="beta")))
        with lease(settings, "hf"):
            await until(lambda: fabric.agents["beta"].asked[-1].in_use == ("hf",))

    with_hub(settings, fabric, scenario)


def test_engines_end_with_the_process_that_started_them(settings, fabric):
    async def scenario(hub):
        await hub.obey(command(Verb.ENSURE, replace(LANE, node="beta")))
        await hub.obey(command(Verb.ENSURE, replace(LANE, name="kept", node="beta"), persistent=True))
        assert hub.guards_engines
        await hub.obey(command(Verb.CLOSE, None))
        assert set(fabric.agents["beta"].engines) == {"kept"}
        assert not hub.guards_engines

    with_hub(settings, fabric, scenario)


def test_engines_of_a_process_that_was_killed_end_once_nobody_uses_them(settings, fabric):
    async def scenario(hub):
        with lease(settings, "hf"):
            await hub.obey(command(Verb.ENSURE, replace(LANE, node="beta"), sender=DEAD))
            await hub.obey(command(Verb.ENSURE, replace(LANE, name="idle", node="beta"), sender=DEAD))
            await until(lambda: set(fabric.agents["beta"].engines) == {"hf"})
        await until(lambda: fabric.agents["beta"].engines == {})

    with_hub(settings, fabric, scenario)


def test_the_next_owner_keeps_an_engine_whose_owner_was_killed(settings, fabric):
    async def scenario(hub):
        with lease(settings, "hf"):
            await hub.obey(command(Verb.ENSURE, replace(LANE, node="beta"), sender=DEAD))
            start_id = fabric.agents["beta"].engines["hf"].start_id
            await hub.obey(command(Verb.ENSURE, replace(LANE, node="beta")))
        assert hub.snapshot().placement("hf").owner == this_process()
        assert fabric.agents["beta"].engines["hf"].start_id == start_id

    with_hub(settings, fabric, scenario)


def test_the_next_process_knows_where_lanes_were_placed(settings, fabric):
    async def scenario(hub):
        await hub.obey(command(Verb.ENSURE))

    with_hub(settings, fabric, scenario)
    assert Hub(settings, "auto", fabric).snapshot().placement("hf").node == "beta"


def test_agents_without_engines_are_retired(settings, fabric):
    async def scenario(hub):
        await hub.obey(command(Verb.ENSURE, replace(LANE, node="beta")))
        await hub.retire_idle_agents()
        assert fabric.retired == ["alpha"]

    with_hub(settings, fabric, scenario)


def test_engines_that_nobody_wrote_down_are_found(settings, fabric):
    fabric.agents["beta"].put(LANE, persistent=True)
    fabric.agents["alpha"].put(replace(LANE, name="left"))

    async def scenario(hub):
        placement = await until(lambda: hub.snapshot().placement("hf"))
        assert (placement.node, placement.owner) == ("beta", None)
        await until(lambda: fabric.agents["alpha"].engines == {})
        assert set(fabric.agents["beta"].engines) == {"hf"}
        assert (await hub.obey(command(Verb.STOP))).node == "beta"
        assert hub.snapshot().placement("hf") is None

    with_hub(settings, fabric, scenario)
