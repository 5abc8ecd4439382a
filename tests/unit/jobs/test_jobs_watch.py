"""Jobs that are set in order while nobody shows them."""

from datetime import timedelta

import pytest

from core.domain.turns import utc_now
from core.jobs.records import JobFolder, JobRecord, JobSpec, JobState
from core.jobs.watch import JobsWatch
from core.telemetry.processes import ProcessId


@pytest.fixture
def folder(settings):
    spec = JobSpec(
        kind="test",
        title="a test",
        worker="x",
        arguments={},
        python="python",
        created_at=utc_now() - timedelta(hours=1),
    )
    folder = JobFolder(settings.home / "jobs" / spec.id)
    folder.create(spec)
    return folder


def test_a_job_whose_runner_is_gone_is_ended_by_a_look(settings, folder):
    folder.write(JobRecord(state=JobState.RUNNING, runner=ProcessId(2**22 + 1, 1.0)))
    JobsWatch(settings).look()
    assert (folder.read().state, folder.read().error.code) == (JobState.FAILED, "job-died")


def test_jobs_that_have_ended_are_read_once(settings, folder):
    folder.write(JobRecord(state=JobState.DONE))
    watch = JobsWatch(settings)
    watch.look()
    (folder.path / "state.json").unlink()
    watch.look()


def test_a_folder_that_holds_no_job_is_skipped(settings, folder):
    (folder.path / "spec.json").write_text("{")
    JobsWatch(settings).look()
