"""Quality runs as jobs: their own process, toy models as the lanes' servers."""

import os
import signal
import time
from contextlib import closing

import pytest

from core.domain.runs import RunState
from core.errors import EngineNotInstalled, InputError
from core.jobs.registry import Jobs, JobState
from core.quality import job
from core.quality.job import JOB_KIND, start_quality
from core.quality.plan import OWN_ANSWERS, QualityPlan
from core.quality.results import results
from core.store.runs import QualityRuns
from tests.unit.quality import quality_samples as samples
from tests.unit.quality.toy_server import ToyModel, lane, serving

END_S = 60
PROMPTS = ("One?", "Two?", "Three?")


@pytest.fixture
def home(settings, monkeypatch):
    """The job's process finds the same home and store by its environment."""
    monkeypatch.setenv("LMDYNO_DATABASE_URL", settings.database_url)
    return settings


def plan(url: str, **changes) -> QualityPlan:
    fields = {"lanes": (lane("one", url), lane("two", url)), "reference": "one", "prompts": PROMPTS}
    return QualityPlan(**{**fields, "texts": (OWN_ANSWERS,), **changes})


def test_a_run_goes_on_in_a_process_of_its_own_and_is_stored(home):
    with serving(ToyModel()) as url:
        asked = plan(url)
        status = Jobs(home).wait(start_quality(home, asked), END_S)
    assert status.state is JobState.DONE, status.record.error
    assert status.record.result == {"run_id": asked.id, "state": "done"}
    with closing(QualityRuns(home.database_url)) as runs:
        result = results(runs.record(asked.id))
    assert result.run.machine is not None
    assert result.lanes[1].agreement.identical == len(PROMPTS)
    assert result.lanes[1].text(OWN_ANSWERS.name).difference.value == pytest.approx(0)
    assert result.lanes[1].ttft_p50_s > 0


def test_a_stopped_run_keeps_what_was_answered_and_no_second_one_starts_beside_it(home):
    def slowly(prompt: str) -> str:
        time.sleep(0.05)
        return prompt

    with serving(ToyModel(answer=slowly)) as url, closing(QualityRuns(home.database_url)) as runs:
        asked = plan(url, prompts=PROMPTS * 100, texts=())
        started = start_quality(home, asked)
        deadline = time.monotonic() + END_S
        while not (runs.run(asked.id) and runs.record(asked.id).answers) and time.monotonic() < deadline:
            time.sleep(0.05)
        with pytest.raises(InputError, match="already"):
            start_quality(home, plan(url))
        Jobs(home).cancel(started)
        assert Jobs(home).wait(started, END_S).state is JobState.CANCELLED
        record = runs.record(asked.id)
    assert record.run.state is RunState.STOPPED
    assert 1 <= len(record.answers) < 700


def test_a_run_whose_worker_was_killed_says_so(home):
    def slowly(prompt: str) -> str:
        time.sleep(0.05)
        return prompt

    with serving(ToyModel(answer=slowly)) as url, closing(QualityRuns(home.database_url)) as runs:
        asked = plan(url, prompts=PROMPTS * 100, texts=())
        started = start_quality(home, asked)
        deadline = time.monotonic() + END_S
        while not (runs.run(asked.id) and runs.record(asked.id).answers) and time.monotonic() < deadline:
            time.sleep(0.05)
        os.kill(Jobs(home).status(started).record.worker.pid, signal.SIGKILL)
        assert Jobs(home).wait(started, END_S).state is JobState.FAILED
        record = runs.record(asked.id)
    assert (record.run.state, record.run.error.code) == (RunState.FAILED, "job-killed")
    assert record.answers


def test_tasks_of_a_program_that_is_missing_are_refused_before_the_start(home, monkeypatch):
    def missing() -> None:
        raise EngineNotInstalled("lm-evaluation-harness isn't installed")

    monkeypatch.setattr(job, "require_installed", missing)
    with pytest.raises(EngineNotInstalled):
        start_quality(home, samples.plan(external_tasks=("gsm8k",)))
    assert not Jobs(home).statuses(JOB_KIND)
