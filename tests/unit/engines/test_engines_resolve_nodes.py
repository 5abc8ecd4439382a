"""nodes.json: what it tells of a lane on a node, and when it is no longer believed."""

from dataclasses import replace
from datetime import timedelta

import pytest

from core.codec import encode
from core.domain.specs import Dialect, Endpoint, EngineKind, LaneSpec, Patience
from core.domain.turns import ErrorInfo, utc_now
from core.engines.registry import EngineState
from core.engines.resolve import (
    ClusterSnapshot,
    Node,
    NodeEngine,
    Placement,
    find_endpoint,
    node_trouble,
    nodes_file,
    read_snapshot,
    trouble,
)
from core.errors import EngineCrashed, EngineError
from core.files import write_atomically
from core.telemetry.processes import ProcessId, this_process
from tests.unit.engines.engine_stand_ins import lane_in, settings_in

ENDPOINT = Endpoint(
    url="http://127.0.0.3:4711/v1",
    model="m",
    dialect=Dialect.LMDEPLOY,
    api_key="secret",
    device="cuda:0,1",
    node="beta",
)
LANE = LaneSpec(name="hf", kind=EngineKind.TRANSFORMERS)
MINUTE = timedelta(minutes=1)
DEAD = ProcessId(2**22 - 1, 1.0)
PROBLEM = ErrorInfo("node-silent", "Node beta stopped answering.", "Check it.")


@pytest.fixture
def settings(tmp_path):
    return settings_in(tmp_path)


def engine(lane, state=EngineState.HEALTHY, **more):
    endpoint = ENDPOINT if state is EngineState.HEALTHY else None
    return NodeEngine(lane=lane, state=state, since=utc_now(), start_id="s1", endpoint=endpoint, **more)


def node(*engines, **more):
    return Node(name="beta", node_id="1", address="127.0.0.3", reported_at=utc_now(), engines=engines, **more)


def snapshot(*nodes, **more):
    facts = {"process": this_process(), "written_at": utc_now(), "address": "auto", "connected": True}
    return ClusterSnapshot(**{**facts, "nodes": nodes, **more})


def write(settings, content):
    write_atomically(nodes_file(settings), encode(content))


def test_a_snapshot_is_read_as_it_was_written(settings, tmp_path):
    lane = lane_in(tmp_path)
    before = snapshot(node(engine(lane)), placements=(Placement(lane="hf", node="beta"),))
    write(settings, before)
    assert read_snapshot(settings) == before
    assert nodes_file(settings).stat().st_mode & 0o777 == 0o600
    write(settings, replace(before, nodes=()))
    assert read_snapshot(settings) == replace(before, nodes=())


def test_a_file_of_another_version_is_no_snapshot(settings):
    write(settings, {"nodes": "?"})
    assert read_snapshot(settings) is None


def test_requests_of_a_lane_go_to_its_node(settings):
    lane = replace(LANE, node="beta", patience=Patience(stall_s=3.0))
    write(settings, snapshot(node(engine(LANE))))
    endpoint = find_endpoint(settings, lane)
    assert endpoint == replace(ENDPOINT, patience=lane.patience)
    assert endpoint.devices == {"beta/cuda:0", "beta/cuda:1"}


def test_requests_of_a_placed_lane_follow_it(settings):
    write(settings, snapshot(node(engine(LANE)), placements=(Placement(lane="hf", node="beta"),)))
    assert find_endpoint(settings, LANE) is not None


@pytest.mark.parametrize(
    ("make", "code"),
    [
        (lambda: None, "cluster-not-connected"),
        (lambda: snapshot(node(engine(LANE)), process=DEAD), "cluster-process-died"),
        (
            lambda: snapshot(node(engine(LANE)), written_at=utc_now() - MINUTE),
            "cluster-process-hangs",
        ),
        (lambda: snapshot(problem=ErrorInfo("cluster-lost", "No Ray.")), "cluster-lost"),
        (lambda: snapshot(connected=False), "cluster-connecting"),
        (lambda: snapshot(), "node-unknown"),
        (lambda: snapshot(node(engine(LANE), problem=PROBLEM)), "node-silent"),
        (lambda: snapshot(node()), "engine-not-running"),
        (lambda: snapshot(node(engine(LANE, EngineState.STOPPED))), "engine-not-running"),
        (
            lambda: snapshot(node(engine(LANE, EngineState.FAILED, error=ErrorInfo("gpu-full", "Full.")))),
            "gpu-full",
        ),
        (lambda: snapshot(node(engine(replace(LANE, kind=EngineKind.PYTORCH)))), "engine-settings-differ"),
    ],
)
def test_what_stands_in_the_way_is_told(settings, make, code):
    if (content := make()) is not None:
        write(settings, content)
    with pytest.raises(EngineError) as caught:
        find_endpoint(settings, replace(LANE, node="beta"))
    assert caught.value.code == code
    assert caught.value.message


def test_a_silent_node_counts_as_a_crash(settings):
    write(settings, snapshot(node(engine(LANE), problem=PROBLEM)))
    with pytest.raises(EngineCrashed):
        find_endpoint(settings, replace(LANE, node="beta"))


def test_an_engine_that_starts_has_no_endpoint_yet(settings):
    write(settings, snapshot(node(engine(LANE, EngineState.STARTING))))
    assert find_endpoint(settings, replace(LANE, node="beta")) is None


def test_nothing_is_wrong_with_a_node_that_answers():
    fresh = snapshot(node())
    assert trouble(fresh) is None
    assert node_trouble(fresh, "beta") is None


def test_times_of_a_node_are_told_by_this_machines_clock():
    late = node(engine(LANE), clock_offset_s=30.0)
    assert late.since(late.engines[0]) == late.engines[0].since - timedelta(seconds=30)
