"""Engines here and on nodes behind one face, through a cluster's process of its own without Ray."""

import os
import signal
import sys
from pathlib import Path

import pytest

from core.access.guard import acting_as
from core.access.identity import Identity, Role
from core.cluster.control import engines_of
from core.cluster.link import ClusterLink, find_process
from core.domain.specs import ClusterSpec, EngineKind
from core.engines.manager import EngineManager
from core.engines.registry import EngineState, lease
from core.engines.resolve import find_endpoint, read_snapshot
from core.errors import AccessDenied, ConfigError, EngineBusy, EngineCrashed, EngineError
from tests.unit.cluster.conftest import making
from tests.unit.engines.engine_stand_ins import gone, lane_in, row, rows, wait_for


def test_without_a_cluster_it_is_the_manager_alone(own_settings, lanes):
    engines = engines_of(own_settings, lanes, None)
    assert type(engines) is EngineManager
    assert find_process(own_settings) is None
    assert "ray" not in sys.modules


def test_a_lane_starts_answers_and_stops_on_its_node(make, settings, lanes):
    engines = make()
    assert engines.status("there").state is EngineState.STOPPED
    engines.ensure("there")
    now = engines.wait_until_healthy("there", 30)
    assert (now.node, now.device, now.owned) == ("beta", "cpu", True)
    assert now.url.startswith("http://127.0.0.7:")
    assert find_endpoint(settings, lanes[1]).url == now.url
    assert "Uvicorn running" in engines.log_tail("there")
    assert engines.log_file("there") is None
    assert [status.node for status in engines.statuses()] == [None, "beta"]
    first = read_snapshot(settings).node("beta").engine("there")
    engines.ensure("there")
    engines.restart("there")
    again = engines.wait_until_healthy("there", 30)
    assert read_snapshot(settings).node("beta").engine("there").start_id != first.start_id
    assert gone(first.pid)
    engines.stop("there")
    assert engines.status("there").state is EngineState.STOPPED
    assert gone(again.pid)


def test_a_lane_that_names_no_node_stays_here_if_it_can(make):
    engines = make()
    engines.ensure("here")
    now = engines.wait_until_healthy("here", 30)
    assert now.node is None
    assert now.url.startswith("http://127.0.0.1:")
    assert "Uvicorn running" in engines.log_tail("here")
    assert engines.log_file("here").exists()


def test_a_lane_that_fits_nowhere_says_why(make, tmp_path, settings):
    lane = lane_in(tmp_path, "tm", EngineKind.TURBOMIND)
    engines = make(rows=rows(**{EngineKind.TURBOMIND: row(needs_gpu=True)}))
    engines.configure([lane])
    engines.ensure("tm")
    with pytest.raises(EngineError) as caught:
        engines.wait_until_healthy("tm", 30)
    assert caught.value.code == "no-node"
    assert engines.status("tm").error.code == "no-node"


def test_an_engine_that_answers_is_not_stopped(make, settings):
    engines = make()
    engines.ensure("there")
    engines.wait_until_healthy("there", 30)
    with lease(settings, "there"):
        assert engines.status("there").in_use
        with pytest.raises(EngineBusy):
            engines.stop("there")
        with pytest.raises(EngineBusy):
            engines.restart("there")
        engines.stop("there", force=True)
    assert engines.status("there").state is EngineState.STOPPED


def test_viewers_start_and_stop_nothing(make):
    engines = make()
    with acting_as(Identity(id="v", name="V", role=Role.VIEWER)):
        with pytest.raises(AccessDenied):
            engines.ensure("there")
        with pytest.raises(AccessDenied):
            engines.stop("there")
        with pytest.raises(AccessDenied):
            engines.restart("there")
    assert engines.status("there").state is EngineState.STOPPED


def test_an_unknown_lane_is_told(make):
    engines = make()
    for ask in (engines.ensure, engines.status, engines.restart):
        with pytest.raises(ConfigError):
            ask("nobody")


def test_engines_end_with_those_who_started_them(make, settings):
    engines = make()
    engines.ensure("there")
    pid = engines.wait_until_healthy("there", 30).pid
    engines.close()
    assert gone(pid)


def test_the_next_process_finds_what_runs(make, settings, lanes):
    engines = make()
    engines.adopt_orphans()
    engines.ensure("there")
    before = engines.wait_until_healthy("there", 30)
    whereabouts = find_process(settings)
    process = whereabouts.process
    os.kill(process.pid, signal.SIGKILL)
    wait_for(lambda: not process.alive)
    with pytest.raises(EngineError):
        find_endpoint(settings, lanes[1])
    back = wait_for(lambda: (s := engines.status("there")).state is EngineState.HEALTHY and s, 30)
    assert (back.pid, back.owned) == (before.pid, True)
    assert find_process(settings).process != process
    assert not Path(whereabouts.address).parent.exists()


def test_a_cluster_out_of_reach_fails_lanes_on_nodes_alone(own_settings):
    (own_settings.home / "lost").touch()
    with making(own_settings) as make:
        engines = make()
        engines.ensure("there")
        failed = wait_for(lambda: (s := engines.status("there")).state is EngineState.FAILED and s)
        assert failed.error.code == "cluster-lost"
        assert "no answer from the head" in failed.error.message
        engines.ensure("here")
        assert engines.wait_until_healthy("here", 30).node is None


def test_another_cluster_needs_another_process(make, settings):
    make()
    with pytest.raises(EngineCrashed) as caught:
        make(spec=ClusterSpec(address="other:6379"))
    assert caught.value.code == "cluster-other"


def test_this_machine_goes_on_where_the_clusters_process_does_not_start(own_settings, lanes, monkeypatch):
    def fail(self):
        raise EngineCrashed("It does not start.")

    monkeypatch.setattr(ClusterLink, "await_reports", fail)
    engines = engines_of(own_settings, lanes, ClusterSpec(address="auto"), wait=True)
    assert engines.status("here").state is EngineState.STOPPED
    assert engines.status("there").node == "beta"
