"""Jobs that a node does, seen from here: progress, results so far, the end, and a cancelling."""

import json
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from core.bench.memory_sweep import SweepPlan, grid, start_sweep
from core.cluster import jobs
from core.cluster.jobs import follow, quantize_on
from core.cluster.protocol import NodeJob
from core.domain.runs import RunState
from core.domain.walk import StepKind
from core.errors import ConfigError, InputError, LMDynoError
from core.jobs.registry import Jobs, JobSpec, JobState
from core.models.awq.options import AwqOptions
from core.store.run_tables import Walks
from core.walk.job import load, start_walk
from tests.unit.cluster.conftest import making
from tests.unit.engines.engine_stand_ins import model_in, wait_for

pytestmark = pytest.mark.timeout(180)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(jobs, "_LOOK_S", 0.1)


@pytest.fixture(scope="module", autouse=True)
def process(settings):
    """The cluster's process stays from one test to the next."""
    with making(settings) as make:
        make()
        yield


@pytest.fixture(autouse=True)
def cluster(settings, monkeypatch):
    """A running cluster's process, which jobs find by the home and the lanes file."""
    model = model_in(settings.home)
    settings.lanes_file.write_text(
        '[cluster]\naddress = "auto"\n'
        f'[models.stand-in]\ncheckpoint = "{model.checkpoint}"\n'
        '[lanes.there]\nengine = "transformers"\nmodel = "stand-in"\n'
    )
    monkeypatch.setenv("LMDYNO_HOME", str(settings.home))
    monkeypatch.setenv("LMDYNO_LANES", str(settings.lanes_file))
    yield model
    for home in (settings, home_of_beta(settings)):
        for status in Jobs(home).statuses():
            Jobs(home).forget(status.spec.id)


def scripted(**arguments):
    return NodeJob(
        spec=JobSpec(
            kind="scripted",
            title="Scripted",
            worker="tests.unit.cluster.scripted_job",
            arguments={"name": "a", "steps": 2, **arguments},
            python=sys.executable,
        ),
        outcome="steps/a.json",
    )


def home_of_beta(settings):
    return replace(settings, home=settings.home / "nodes" / "beta")


def on_node(settings):
    """The jobs in the home of the node beta."""
    return Jobs(home_of_beta(settings)).statuses()


def test_a_job_is_followed_to_its_result(settings):
    stages, outcomes = [], []
    result = follow(
        settings,
        "beta",
        scripted(step_s=0.3),
        lambda stage, progress=None: stages.append(stage),
        lambda content: outcomes.append(json.loads(content)),
    )
    assert result == {"steps": 2}
    assert outcomes[-1] == {"steps": 2}
    assert any(stage.startswith("beta: ") for stage in stages)
    assert [status.state for status in on_node(settings)] == [JobState.DONE]


def test_a_job_that_fails_there_fails_here_with_the_nodes_name(settings):
    with pytest.raises(LMDynoError) as caught:
        follow(settings, "beta", scripted(fails=True), lambda *_: None)
    assert (caught.value.code, caught.value.hint) == ("scripted", "Do better.")
    assert caught.value.message == "Node beta: It failed."


def test_whoever_stops_following_cancels_the_job(settings):
    def report(stage, progress=None):
        if "step" in stage:
            raise SystemExit(1)

    with pytest.raises(SystemExit):
        follow(settings, "beta", scripted(steps=100, step_s=0.2), report)
    wait_for(lambda: on_node(settings)[0].state is JobState.CANCELLED, 60)


def test_a_node_that_there_is_not_starts_no_job(settings):
    with pytest.raises(LMDynoError) as caught:
        follow(settings, "gamma", scripted(), lambda *_: None)
    assert caught.value.code == "node-unknown"


def test_without_a_cluster_there_is_no_node(settings):
    with pytest.raises(ConfigError):
        follow(replace(settings, lanes_file=settings.home / "none"), "beta", scripted(), lambda *_: None)


def test_a_quantisation_is_checked_on_its_node(settings, cluster):
    job_id = quantize_on(settings, "beta", cluster, AwqOptions(calibration="none"))
    ended = Jobs(settings).wait(job_id, 120)
    assert ended.state is JobState.FAILED
    assert ended.record.error.message
    assert ended.spec.arguments["node"] == "beta"


def test_a_sweep_is_measured_on_its_node(settings, cluster):
    plan = SweepPlan(model=cluster, points=grid((0.4,), (16,), (False,)), gpu=0)
    job_id = start_sweep(settings, plan, node="beta")
    ended = Jobs(settings).wait(job_id, 120)
    assert ended.state is JobState.FAILED
    assert "beta" in ended.record.error.message
    assert [status.spec.kind for status in on_node(settings)] == ["memory-sweep"]


def test_a_walk_is_taken_on_its_node(settings, cluster, tmp_path, monkeypatch):
    """Without weights its engines' steps are skipped, on the node, for that reason."""
    monkeypatch.setenv("LMDYNO_DATABASE_URL", f"sqlite:///{tmp_path / 'lmdyno.db'}")
    (Path(cluster.checkpoint) / "model.safetensors").unlink()
    walk_id = start_walk(settings, node="beta")
    with pytest.raises(InputError):
        start_walk(settings, node="beta")
    ended = Jobs(settings).wait(walk_id, 120)
    assert (ended.state, ended.record.error) == (JobState.DONE, None)
    run = load(settings, walk_id)
    assert (run.id, run.node, run.state) == (walk_id, "beta", RunState.DONE)
    assert [step.kind for step in run.steps] == list(StepKind)
    assert {lane.node for lane in run.lanes} == {"beta"}
    with closing(Walks(f"sqlite:///{tmp_path / 'lmdyno.db'}")) as walks:
        assert walks.run(walk_id) == run
    assert [status.state for status in on_node(settings)] == [JobState.DONE]
