from contextlib import closing
from dataclasses import replace

import pytest

from core.domain.runs import RunState
from core.domain.walk import StepKind, StepResult, StepState
from core.settings import load_settings
from core.store.run_tables import Walks
from core.walk import job
from core.walk.job import load


@pytest.fixture
def settings(tmp_path):
    return replace(load_settings({"LMDYNO_HOME": str(tmp_path)}), lanes_file=tmp_path / "none")


class FakeWalk:
    """Takes two steps, or is stopped after the first."""

    stopped = False

    def __init__(self, plan, *, walker, nvml, run):
        self.run = run

    def take(self, on_step, tell):
        for kind in (StepKind.ENVIRONMENT, StepKind.TRANSFORMERS):
            step = StepResult(kind=kind, state=StepState.DONE, duration_s=1.0)
            self.run = replace(self.run, steps=(*self.run.steps, step))
            on_step(self.run)
            if self.stopped:
                raise KeyboardInterrupt


def take(settings, seen):
    return job.take_walk(settings, None, "walk0001", lambda stage, share: None, seen.append)


def stored(settings):
    with closing(Walks(settings.database_url)) as walks:
        return walks.run("walk0001")


def test_a_walk_runs_until_it_is_in_the_history(settings, monkeypatch):
    monkeypatch.setattr(job, "Walk", FakeWalk)
    seen = []
    run = take(settings, seen)
    assert [one.state for one in seen] == [RunState.RUNNING] * 2
    assert run.state is RunState.DONE
    assert run.lanes
    assert stored(settings) == load(settings, "walk0001") == run


def test_a_walk_that_is_stopped_keeps_its_steps(settings, monkeypatch):
    monkeypatch.setattr(job, "Walk", FakeWalk)
    monkeypatch.setattr(FakeWalk, "stopped", True)
    with pytest.raises(KeyboardInterrupt):
        take(settings, [])
    run = stored(settings)
    assert run.state is RunState.STOPPED
    assert [step.kind for step in run.steps] == [StepKind.ENVIRONMENT]
