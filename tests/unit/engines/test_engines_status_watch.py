"""What telemetry is told of engines, from a registry whose process is this test's own."""

from dataclasses import replace

import pytest

from core.domain.turns import utc_now
from core.engines.registry import EngineEntry, EngineState, Registry, lease
from core.engines.status import EngineWatch
from core.engines.supervisor import log_path
from core.telemetry.processes import this_process
from core.telemetry.samples import EngineProcess, EventKind
from tests.unit.engines.engine_stand_ins import lane_in, settings_in

ME = this_process()


@pytest.fixture
def home(tmp_path):
    return settings_in(tmp_path)


@pytest.fixture
def watch(home):
    return EngineWatch(home)


def put(home, **changes):
    entry = EngineEntry(
        lane=lane_in(home.home, "tm"),
        state=EngineState.STARTING,
        since=utc_now(),
        owner=ME,
        worker=ME,
        start_id="first",
        process=ME,
        gpus=(0,),
        log_file=str(log_path(home.logs_dir, "tm")),
    )
    with Registry(home).changing() as engines:
        engines["tm"] = replace(entry, **changes)


def write_log(home, text):
    path = log_path(home.logs_dir, "tm")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_an_engine_is_busy_while_it_starts_and_while_a_request_runs(home, watch):
    put(home)
    assert watch() == (EngineProcess(name="tm", pid=ME.pid, gpus=(0,), busy=True),)
    put(home, state=EngineState.HEALTHY)
    assert watch() == (EngineProcess(name="tm", pid=ME.pid, gpus=(0,), busy=False),)
    with lease(home, "tm"):
        assert watch()[0].busy


def test_without_a_process_there_is_no_engine(home, watch):
    assert watch() == ()
    put(home, process=None, state=EngineState.STOPPED)
    assert watch() == ()
    put(home, process=replace(ME, created_s=1.0))
    assert watch() == ()


def test_a_start_is_followed_through_registry_and_log(home, watch):
    watch()
    put(home)
    watch()
    write_log(home, "Object cache budget: 1024.00 MB from free 2048.00 MB and ratio 0.500\n")
    watch()
    put(home, state=EngineState.HEALTHY)
    watch()
    with lease(home, "tm"):
        watch()
    watch()
    put(home, process=None, state=EngineState.STOPPED)
    watch()
    assert [event.kind for event in watch.events()] == [
        EventKind.START,
        EventKind.WEIGHTS,
        EventKind.READY,
        EventKind.REQUEST,
        EventKind.REQUEST_END,
        EventKind.STOP,
    ]


def test_the_kv_log_is_that_of_the_running_engine(home, watch):
    assert watch.kv_log("tm") is None
    put(home)
    assert watch.kv_log("tm") is None
    write_log(home, "Object cache budget: 1024.00 MB from free 2048.00 MB and ratio 0.500\n")
    assert watch.kv_log("tm").reserved_bytes == 2**30
    write_log(home, "Object cache budget: 512.00 MB from free 2048.00 MB and ratio 0.250\n")
    assert watch.kv_log("tm").reserved_bytes == 2**30
    put(home, start_id="second")
    assert watch.kv_log("tm").reserved_bytes == 2**29
