"""Figures of nodes' machines: asked over the cluster's process, and missing where nobody answers."""

import asyncio
import time
from dataclasses import replace

import pytest

from core.bench.run.recording import PassTelemetry
from core.cluster.link import NodeWindows
from core.domain.specs import Dialect, Endpoint
from core.meter.devices import SampledUsage
from tests.unit.cluster.conftest import making
from tests.unit.engines.engine_stand_ins import wait_for


@pytest.fixture(scope="module")
def node_engine(settings):
    """The engine of the lane `there`, on the node beta."""
    with making(settings) as make:
        engines = make()
        engines.ensure("there")
        engines.wait_until_healthy("there", 30)
        yield NodeWindows(settings).engine("there")


def test_the_engine_of_a_lane_is_found_on_its_node(node_engine, settings):
    node, engine = node_engine
    assert (node, engine.name) == ("beta", "there")
    assert NodeWindows(settings).engine("here") is None


def test_a_window_is_of_the_nodes_sampler(node_engine, settings):
    windows = NodeWindows(settings)
    start_ns = time.perf_counter_ns()
    windows.mark("beta")

    def with_engine():
        stats = windows.window("beta", start_ns, time.perf_counter_ns())
        return stats if stats and any(engine.name == "there" for engine in stats.engines) else None

    stats = wait_for(with_engine)
    assert stats.samples >= 1
    assert stats.engines[0].peak_resident_bytes > 0


def test_a_node_that_does_not_answer_has_no_figures(node_engine, settings):
    windows = NodeWindows(settings)
    windows.mark("gamma")
    assert windows.window("gamma", 0, 1) is None


def test_without_the_clusters_process_there_are_none(tmp_path, settings):
    assert NodeWindows(replace(settings, home=tmp_path / "other")).window("beta", 0, 1) is None


def test_a_pass_of_a_load_test_knows_the_engine_on_the_node(node_engine, settings):
    telemetry = PassTelemetry(settings, ["there"])

    async def measure():
        start_ns = time.perf_counter_ns()
        await telemetry.mark()
        await asyncio.sleep(0.3)
        await telemetry.mark()
        return await telemetry.use(["there"], start_ns, time.perf_counter_ns())

    _gpus, engines = asyncio.run(measure())
    assert [engine.lane for engine in engines] == ["there"]
    assert engines[0].peak_resident_bytes > 0


def test_a_request_to_a_node_has_the_nodes_window(node_engine, settings):
    endpoint = Endpoint(
        url="http://127.0.0.7:1/v1", model="m", dialect=Dialect.GENERIC, device="cpu", node="beta"
    )
    usage = SampledUsage(settings)

    async def measure():
        await usage.begin(endpoint)
        start_ns = time.perf_counter_ns()
        return await usage.end("there", endpoint, start_ns, time.perf_counter_ns())

    assert asyncio.run(measure()) is not None
    gone = replace(endpoint, node="gamma")
    assert asyncio.run(usage.end("there", gone, 0, 1)) is None
