"""Engines shared between LMDyno processes: adoption, leftovers, two that start the same engine at once."""

from dataclasses import replace

import psutil
import pytest

from core.engines.manager import EngineManager
from core.engines.registry import EngineState, Registry, lease
from core.engines.resolve import find_endpoint
from core.errors import EngineBusy, EngineCrashed, EngineError
from tests.unit.engines.engine_stand_ins import gone, lane_in, rows, settings_in, wait_for


@pytest.fixture
def manager(tmp_path):
    made = EngineManager(settings_in(tmp_path), [lane_in(tmp_path)], rows=rows(), grace_s=1.0)
    yield made
    made.close()


def test_engine_of_a_killed_dashboard_is_adopted(beside, manager):
    owner = beside()
    pid = owner.start()
    owner.kill()
    assert not gone(pid)
    assert not manager.status("hf").owned

    manager.ensure("hf")
    status = manager.wait_until_healthy("hf", 30)
    assert (status.pid, status.owned) == (pid, True)
    manager.close()
    wait_for(lambda: gone(pid))


def test_adopted_engine_with_other_settings_is_replaced(beside, tmp_path):
    owner = beside()
    pid = owner.start()
    owner.kill()
    lane = lane_in(tmp_path, dtype="float32")
    manager = EngineManager(settings_in(tmp_path), [lane], rows=rows(), grace_s=1.0)
    assert manager.status("hf").stage == "Runs with its previous settings until you restart it"
    with pytest.raises(EngineError) as caught:
        find_endpoint(settings_in(tmp_path), lane)
    assert caught.value.code == "engine-settings-differ"

    manager.ensure("hf")
    assert manager.wait_until_healthy("hf", 30).pid != pid
    assert gone(pid)
    manager.close()


def test_longer_start_timeout_is_no_other_engine(beside, tmp_path):
    owner = beside()
    pid = owner.start()
    owner.kill()
    lane = lane_in(tmp_path, start_timeout_s=99.0)
    manager = EngineManager(settings_in(tmp_path), [lane], rows=rows(), grace_s=1.0)
    manager.ensure("hf")
    assert manager.wait_until_healthy("hf", 30).pid == pid
    manager.close()


def test_engine_in_use_is_not_replaced(beside, tmp_path):
    owner = beside()
    pid = owner.start()
    owner.kill()
    lane = lane_in(tmp_path, dtype="float32")
    manager = EngineManager(settings_in(tmp_path), [lane], rows=rows(), grace_s=1.0)
    with lease(settings_in(tmp_path), "hf"), pytest.raises(EngineBusy):
        manager.ensure("hf")
    assert not gone(pid)


def test_adopted_process_that_does_not_hold_the_port_is_started_anew(beside, manager, tmp_path):
    owner = beside()
    pid = owner.start()
    owner.kill()
    registry = Registry(settings_in(tmp_path))
    registry.update(registry.get("hf"), port=9)
    psutil.Process(pid).suspend()  # it would not end by SIGTERM alone either
    manager.ensure("hf")
    psutil.Process(pid).kill()
    status = wait_for(lambda: (now := manager.status("hf")).pid not in (None, pid) and now)
    assert manager.wait_until_healthy("hf", 30).pid == status.pid


def test_engine_of_a_living_process_is_used_and_not_owned(beside, manager):
    owner = beside()
    pid = owner.start()
    manager.ensure("hf")
    status = manager.wait_until_healthy("hf", 30)
    assert (status.pid, status.owned) == (pid, False)
    manager.close()
    assert not gone(pid)
    owner.close()
    assert gone(pid)
    assert manager.status("hf").state is EngineState.STOPPED


def test_engine_of_a_living_process_with_other_settings_is_refused(beside, tmp_path):
    pid = beside().start()
    lane = lane_in(tmp_path, dtype="float32")
    manager = EngineManager(settings_in(tmp_path), [lane], rows=rows())
    with pytest.raises(EngineBusy) as caught:
        manager.ensure("hf")
    assert caught.value.code == "engine-settings-differ"
    assert not gone(pid)


def test_persistent_engine_outlives_everybody_until_it_is_stopped(beside, manager):
    owner = beside("--persistent")
    pid = owner.start()
    owner.close()
    manager.ensure("hf")
    assert not manager.wait_until_healthy("hf", 30).owned
    manager.close()
    assert not gone(pid)
    manager.stop("hf")
    assert gone(pid)


def test_two_processes_that_start_the_same_engine_at_once_start_one(beside):
    owners = [beside("--load-s", "0.5") for _ in range(2)]
    for owner in owners:
        owner.go()
    assert [owner.line() for owner in owners] == ["started", "started"]
    told = [owner.line().split() for owner in owners]
    assert told[0][0] == told[1][0]
    assert sorted(owned for _, owned in told) == ["False", "True"]


def test_start_of_a_killed_process_is_told_and_begun_anew(beside, manager, tmp_path):
    owner = beside("--hang")
    owner.go()
    assert owner.line() == "started"
    pid = wait_for(lambda: manager.status("hf").pid)
    owner.kill()
    assert manager.status("hf").error.code == "engine-start-abandoned"
    with pytest.raises(EngineError, match="LMDyno exited while it was starting"):
        find_endpoint(settings_in(tmp_path), lane_in(tmp_path))

    manager.ensure("hf")
    assert manager.wait_until_healthy("hf", 30).pid != pid
    assert gone(pid)


def test_engine_that_died_with_its_dashboard_is_told_and_its_children_end(beside, manager, tmp_path):
    owner = beside("--child", "session", "--say", "RuntimeError: lost")
    pid = owner.start()
    child = psutil.Process(pid).children()[0]
    owner.kill()
    psutil.Process(pid).kill()
    wait_for(lambda: manager.status("hf").state is EngineState.FAILED)
    with pytest.raises(EngineCrashed, match="RuntimeError: lost"):
        find_endpoint(settings_in(tmp_path), lane_in(tmp_path))
    assert child.is_running()

    manager.ensure("hf")
    manager.wait_until_healthy("hf", 30)
    assert gone(child.pid)


def test_engine_of_a_lane_no_longer_configured_is_shown_and_can_be_stopped(beside, tmp_path):
    pid = beside().start()
    other = replace(lane_in(tmp_path), name="other")
    manager = EngineManager(settings_in(tmp_path), [other], rows=rows(), grace_s=1.0)
    assert [status.name for status in manager.statuses()] == ["other", "hf"]
    manager.stop("hf")
    assert gone(pid)
    assert [status.name for status in manager.statuses()] == ["other"]
