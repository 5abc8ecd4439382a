"""Lanes with replicas: how each of them is, what remains when one ends, and that none outlives the lane."""

import json
import os
import signal

import psutil
import pytest

from core.domain.specs import EngineKind
from core.engines.manager import EngineManager
from core.engines.registry import EngineState, replica_log
from core.engines.supervisor import read_tail
from core.errors import EngineLoadFailed, EngineOutOfMemory
from tests.engines.replica_stand_ins import TwoGpus, rows
from tests.unit.engines.engine_stand_ins import gone, lane_in, settings_in, wait_for


@pytest.fixture
def make(tmp_path):
    made = []

    def build(table):
        lane = lane_in(tmp_path, "x2", EngineKind.TURBOMIND, replicas=2)
        manager = EngineManager(settings_in(tmp_path), [lane], rows=table, gpu=TwoGpus(), grace_s=2.0)
        made.append(manager)
        return manager

    yield build
    for manager in made:
        manager.stop("x2", force=True)
        manager.close()


def healthy(manager):
    manager.ensure("x2")
    return manager.wait_until_healthy("x2", 30)


def states(manager):
    return [replica.state for replica in manager.status("x2").replicas]


READY, ENDED = EngineState.HEALTHY, EngineState.FAILED


def test_each_replica_has_its_gpu_its_process_and_its_log(make):
    manager = make(rows("--say", "hello from a replica"))
    status = healthy(manager)
    assert status.device == "cuda:0,1"
    assert status.stage is None
    assert [replica.number for replica in status.replicas] == [1, 2]
    assert [replica.state for replica in status.replicas] == [READY, READY]
    assert [replica.device for replica in status.replicas] == ["cuda:0", "cuda:1"]
    visible = [psutil.Process(each.pid).environ()["CUDA_VISIBLE_DEVICES"] for each in status.replicas]
    assert visible == ["0", "1"]
    for number in (1, 2):
        assert "hello from a replica" in manager.log_tail("x2", replica=number)
        assert replica_log(manager.log_file("x2"), number).stat().st_mode & 0o777 == 0o600


def test_what_the_kv_cache_took_stands_in_the_lanes_own_log(make):
    line = "[TM][INFO] Object cache budget: 26214.40 MB from free 65536.00 MB and ratio 0.400"
    manager = make(rows("--say", line))
    healthy(manager)
    assert f"[replica 1] {line}" in read_tail(manager.log_file("x2"))


def test_when_one_replica_ends_the_other_goes_on(make):
    manager = make(rows())
    first, second = healthy(manager).replicas
    os.kill(first.pid, signal.SIGKILL)
    wait_for(lambda: states(manager) == [ENDED, READY])
    status = manager.status("x2")
    assert status.state is EngineState.HEALTHY
    assert "1 of 2 replicas ended" in status.stage
    assert status.replicas[0].exit_code == -signal.SIGKILL
    assert status.replicas[0].pid is None
    assert not gone(second.pid)


def test_when_all_replicas_end_the_lane_has_failed(make):
    manager = make(rows())
    for replica in healthy(manager).replicas:
        os.kill(replica.pid, signal.SIGKILL)
    wait_for(lambda: manager.status("x2").state is EngineState.FAILED)
    assert manager.status("x2").replicas == ()


def test_a_replica_that_can_not_start_ends_all_and_its_log_says_why(make):
    manager = make(rows("--say", "torch.OutOfMemoryError: CUDA out of memory.", "--exit", "1"))
    manager.ensure("x2")
    with pytest.raises((EngineOutOfMemory, EngineLoadFailed)) as caught:
        manager.wait_until_healthy("x2", 30)
    assert isinstance(caught.value, EngineOutOfMemory)


def family(status):
    pids = [status.pid, *(child.pid for child in psutil.Process(status.pid).children(recursive=True))]
    assert len(pids) == 4  # the leader, the proxy, two servers
    return pids


def test_stopping_the_lane_ends_all_of_its_processes(make):
    manager = make(rows())
    pids = family(healthy(manager))
    manager.stop("x2")
    assert all(gone(pid) for pid in pids)
    assert manager.status("x2").state is EngineState.STOPPED


def test_a_killed_leader_leaves_nothing_behind(make):
    manager = make(rows())
    pids = family(healthy(manager))
    os.kill(pids[0], signal.SIGKILL)
    wait_for(lambda: all(gone(pid) for pid in pids))
    wait_for(lambda: manager.status("x2").state is EngineState.FAILED)


def test_a_killed_proxy_ends_the_lane(make):
    manager = make(rows())
    status = healthy(manager)
    pids = family(status)
    servers = {replica.pid for replica in status.replicas}
    (proxy,) = [pid for pid in pids[1:] if pid not in servers]
    os.kill(proxy, signal.SIGKILL)
    wait_for(lambda: manager.status("x2").state is EngineState.FAILED)
    wait_for(lambda: all(gone(pid) for pid in pids))


def test_the_file_of_an_earlier_start_is_not_believed(make, tmp_path):
    manager = make(rows())
    healthy(manager)
    stale = manager.log_file("x2").with_name("engine-x2~replicas.json")
    text = stale.read_text("utf-8")
    manager.stop("x2")
    assert manager.status("x2").replicas == ()
    manager.ensure("x2")
    wait_for(lambda: manager.status("x2").pid)
    stale.write_text(text, "utf-8")
    replicas = manager.status("x2").replicas
    assert all(replica.pid not in _pids(text) for replica in replicas)
    manager.wait_until_healthy("x2", 30)


def _pids(text):
    return [facts["pid"] for facts in json.loads(text)["replicas"]]
