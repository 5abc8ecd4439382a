"""What a run does to the engines of others: it borrows them, and leaves them as they were."""

import asyncio
import os
import signal
import subprocess
import sys

import pytest

from core.cluster.control import Engines
from core.domain.specs import Dialect, Endpoint
from core.domain.turns import utc_now
from core.engines.registry import EngineEntry, EngineState, Registry, in_use
from core.errors import EngineError
from core.telemetry.processes import identify, this_process
from tests.unit.bench.bench_samples import HF, remote


@pytest.fixture
def settings(own_settings):
    return own_settings


@pytest.fixture
def process():
    """Stands in for an engine, or for another dashboard."""
    started = []

    def start():
        started.append(subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]))
        return identify(started[-1].pid)

    yield start
    for each in started:
        each.kill()
        each.wait()


def running(settings, engine, owner):
    """An engine of the lane hf that another process started."""
    entry = EngineEntry(
        lane=HF,
        state=EngineState.HEALTHY,
        since=utc_now(),
        owner=owner,
        worker=owner or engine,
        process=engine,
        port=1,
        endpoint=Endpoint(url="http://127.0.0.1:1/v1", model="tiny", dialect=Dialect.TRANSFORMERS),
        log_file=str(settings.logs_dir / "hf.log"),
    )
    with Registry(settings).changing() as engines:
        engines["hf"] = entry
    return entry


def borrow(settings, during):
    async def scenario():
        engines = Engines(settings, [HF])
        try:
            endpoint = await engines.ready(HF, lambda stage: None)
            during(Registry(settings).get("hf"))
            return endpoint
        finally:
            engines.close()

    return asyncio.run(scenario())


def test_a_dashboards_engine_is_borrowed_and_given_back(settings, process):
    engine, dashboard = process(), process()
    running(settings, engine, dashboard)

    def during(entry):
        assert entry.owner == this_process()
        assert in_use(settings, "hf")

    endpoint = borrow(settings, during)
    assert endpoint.url == "http://127.0.0.1:1/v1"
    entry = Registry(settings).get("hf")
    assert (entry.owner, entry.state) == (dashboard, EngineState.HEALTHY)
    assert engine.alive
    assert not in_use(settings, "hf")


def test_an_engine_whose_dashboard_ended_meanwhile_is_left_for_the_next_one(settings, process):
    engine, dashboard = process(), process()
    running(settings, engine, dashboard)
    borrow(settings, lambda entry: os.kill(dashboard.pid, signal.SIGKILL))
    entry = Registry(settings).get("hf")
    assert (entry.owner, entry.state) == (dashboard, EngineState.HEALTHY)
    assert engine.alive


def test_an_engine_that_runs_for_itself_stays_so(settings, process):
    engine = process()
    running(settings, engine, None)
    borrow(settings, lambda entry: None)
    entry = Registry(settings).get("hf")
    assert (entry.owner, entry.state) == (None, EngineState.HEALTHY)
    assert engine.alive


def test_an_engine_that_can_not_start_is_an_error_of_its_lane(settings):
    with pytest.raises(EngineError):
        borrow(settings, lambda entry: None)


def test_an_endpoint_needs_no_engine(settings):
    lane = remote("far", "http://far:1/v1")

    async def scenario():
        engines = Engines(settings, [lane])
        endpoint = await engines.ready(lane, lambda stage: None)
        await engines.stop(lane)
        engines.close()
        return endpoint

    assert asyncio.run(scenario()).url == "http://far:1/v1"
    assert not settings.engines_file.exists()
