"""What is kept here of a walk that a node takes."""

from contextlib import closing
from dataclasses import replace

import pytest

from core.codec import encode
from core.domain.runs import RunState
from core.domain.walk import StepKind, StepResult, StepState, WalkRun
from core.settings import load_settings
from core.store.run_tables import Walks
from core.walk import job
from core.walk.job import load

ARGUMENTS = {"id": "walk0001", "model": "tiny", "node": "beta", "lanes": {"models": [], "lanes": []}}
STEP = StepResult(kind=StepKind.ENVIRONMENT, state=StepState.DONE, duration_s=1.0)
RUNNING = WalkRun(id="walk0001", model="tiny", node="beta", state=RunState.RUNNING, steps=(STEP,))


@pytest.fixture
def settings(tmp_path, monkeypatch):
    monkeypatch.setenv("LMDYNO_HOME", str(tmp_path))
    monkeypatch.setenv("LMDYNO_DATABASE_URL", f"sqlite:///{tmp_path / 'here.db'}")
    return load_settings()


@pytest.fixture
def node(monkeypatch):
    """Makes the node tell these runs, one after another, then end with an error or well."""

    def tells(*runs, end=None):
        def follow(settings, name, asked, report, on_outcome):
            jobs.append((name, asked))
            for run in runs:
                on_outcome(encode(run).decode())
            if end is not None:
                raise end
            return {"walk": "walk0001"}

        monkeypatch.setattr(job, "follow", follow)
        return jobs

    jobs = []
    return tells


def stored(settings):
    with closing(Walks(settings.database_url)) as walks:
        return walks.run("walk0001")


def work():
    return job.work({**ARGUMENTS, "follow": True}, lambda stage, progress=None: None)


def test_a_walk_that_ended_there_is_in_the_history_here(settings, node):
    done = replace(RUNNING, state=RunState.DONE)
    jobs = node(RUNNING, done)
    assert work() == {"walk": "walk0001"}
    assert stored(settings) == load(settings, "walk0001") == done
    ((name, asked),) = jobs
    assert (name, asked.outcome, asked.spec.arguments) == ("beta", "walk/walks/walk0001.json", ARGUMENTS)


def test_a_walk_that_is_cancelled_here_keeps_the_steps_that_were_told(settings, node):
    node(RUNNING, end=SystemExit(1))
    with pytest.raises(SystemExit):
        work()
    assert stored(settings) == replace(RUNNING, state=RunState.STOPPED)


def test_a_walk_without_a_step_leaves_nothing(settings, node):
    node(end=SystemExit(1))
    with pytest.raises(SystemExit):
        work()
    assert stored(settings) is None
