from dataclasses import replace

import pytest

from core.domain.specs import ModelSpec
from core.errors import InputError
from core.jobs.registry import JobRecord, Jobs, JobState, JobStatus
from core.memory_sweep.job import JOB_KIND, start_sweep, sweep_id
from core.memory_sweep.sweep import SweepPlan, SweepPoint
from core.settings import Settings

END_S = 60
PLAN = SweepPlan(
    model=ModelSpec(name="tiny", checkpoint="/models/tiny"), points=(SweepPoint(ratio=0.4),), gpu=99
)


@pytest.fixture
def settings(tmp_path):
    return Settings(home=tmp_path, lanes_file=tmp_path / "lanes.toml", database_url="sqlite://")


def test_the_worker_says_why_it_can_t_measure(settings):
    job_id = start_sweep(settings, PLAN)
    status = Jobs(settings).wait(job_id, END_S)
    assert (status.state, status.record.error.code) == (JobState.FAILED, "no-gpu")
    assert status.spec.kind == JOB_KIND
    assert sweep_id(status.spec) == PLAN.id


def test_one_sweep_at_a_time_on_a_gpu(settings, monkeypatch):
    started = []
    monkeypatch.setattr(Jobs, "start", lambda self, spec: started.append(spec) or spec.id)
    monkeypatch.setattr(Jobs, "statuses", lambda self, kind: [running(spec) for spec in started])
    start_sweep(settings, PLAN)
    with pytest.raises(InputError) as refusal:
        start_sweep(settings, replace(PLAN, id="other"))
    assert refusal.value.code == "already-running"
    start_sweep(settings, replace(PLAN, gpu=1))


def running(spec):
    return JobStatus(spec, JobRecord(state=JobState.RUNNING))
