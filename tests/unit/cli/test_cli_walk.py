"""`walk --node` from the command line, over jobs that were scripted."""

import json

import pytest
import typer
from rich.console import Console
from typer.testing import CliRunner

from core.cli import walk
from core.domain.runs import RunState
from core.domain.turns import ErrorInfo
from core.domain.walk import StepKind, StepResult, StepState, WalkRun
from core.jobs.registry import JobRecord, Jobs, JobSpec, JobState, JobStatus
from core.walk import job

FIRST = StepResult(kind=StepKind.ENVIRONMENT, state=StepState.DONE, duration_s=1.0)
SECOND = StepResult(kind=StepKind.PUBLISH, state=StepState.DONE, duration_s=1.0)
RUNNING = WalkRun(id="walk1", model="tiny", node="gpu-1", state=RunState.RUNNING, steps=(FIRST,))
DONE = WalkRun(id="walk1", model="tiny", node="gpu-1", state=RunState.DONE, steps=(FIRST, SECOND))
STOPPED = WalkRun(id="walk1", model="tiny", node="gpu-1", state=RunState.STOPPED, steps=(FIRST,))


@pytest.fixture
def walked(tmp_path, monkeypatch):
    """Runs the command while the job goes through these looks at it: its record and the walk so far.

    KeyboardInterrupt in place of a look is Ctrl-C.
    """
    monkeypatch.setenv("LMDYNO_HOME", str(tmp_path))
    monkeypatch.setattr(walk, "_LOOK_S", 0.0)
    monkeypatch.setattr(walk, "console", Console(highlight=False, width=200))
    started, cancelled = [], []

    def run(*arguments, looks):
        remaining = list(looks)
        now = []

        def status(self, job_id):
            look = remaining.pop(0)
            if look is KeyboardInterrupt:
                raise KeyboardInterrupt
            now[:] = look
            return JobStatus(
                JobSpec(kind="walk", title="", worker="w", arguments={}, python="python"), look[0]
            )

        def start(settings, model, *, node):
            started.append((model, node))
            return "walk1"

        monkeypatch.setattr(job, "start_walk", start)
        monkeypatch.setattr(job, "load", lambda settings, walk_id: now[1])
        monkeypatch.setattr(Jobs, "status", status)
        monkeypatch.setattr(Jobs, "cancel", lambda self, job_id: cancelled.append(job_id))
        app = typer.Typer()
        app.command()(walk.walk)
        return CliRunner().invoke(app, ["--node", "gpu-1", *arguments])

    run.started, run.cancelled = started, cancelled
    return run


GOING = JobRecord(state=JobState.RUNNING, stage="gpu-1: Publish the demo")


def test_the_steps_of_a_node_are_printed_once_each(walked, tmp_path):
    file = tmp_path / "walk.json"
    result = walked(
        "--json",
        file,
        looks=[(GOING, None), (GOING, RUNNING), (GOING, RUNNING), (JobRecord(state=JobState.DONE), DONE)],
    )
    assert result.exit_code == 0, result.output
    assert walked.started == [(None, "gpu-1")]
    assert result.output.count("1. Check the environment") == 1
    assert result.output.count("2. Publish the demo") == 1
    assert json.loads(file.read_text("utf-8"))["node"] == "gpu-1"


def test_ctrl_c_cancels_the_walk_and_keeps_its_steps(walked):
    ended = JobRecord(state=JobState.CANCELLED)
    result = walked(looks=[(GOING, RUNNING), KeyboardInterrupt, (ended, STOPPED)])
    assert walked.cancelled == ["walk1"]
    assert result.exit_code == 1
    assert "1 steps done, 0 skipped, 0 failed" in result.output


def test_a_node_that_takes_no_walk_is_an_exit_code_with_its_reason(walked):
    lost = ErrorInfo("node-unknown", "There is no node gpu-1.", "Look at the nodes.")
    result = walked(looks=[(JobRecord(state=JobState.FAILED, error=lost), None)])
    assert (result.exit_code, "There is no node gpu-1." in result.output) == (1, True)
