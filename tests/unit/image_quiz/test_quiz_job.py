from dataclasses import replace

import pytest

from core.codec import encode
from core.image_quiz.job import JOB_KIND, images_of_jobs
from core.jobs.records import JobFolder, JobRecord, JobSpec, JobState
from core.settings import Settings
from tests.unit.image_quiz.quiz_samples import IMAGE, plan, question

OTHER = replace(IMAGE, sha256="cd" * 32)


@pytest.fixture
def settings(tmp_path):
    return Settings(home=tmp_path, lanes_file=tmp_path / "lanes.toml", database_url="")


def a_job(settings, kind, state, image):
    arguments = {"plan": encode(plan(question("What?", image=image))).decode()}
    spec = JobSpec(kind=kind, title="t", worker="w", python="p", arguments=arguments)
    folder = JobFolder(settings.home / "jobs" / spec.id)
    folder.create(spec)
    folder.write(JobRecord(state=state))


def test_every_quiz_needs_its_images(settings):
    assert images_of_jobs(settings) == frozenset()
    a_job(settings, JOB_KIND, JobState.DONE, IMAGE)
    a_job(settings, JOB_KIND, JobState.FAILED, OTHER)
    assert images_of_jobs(settings) == {IMAGE.sha256, OTHER.sha256}


def test_another_job_needs_them_until_it_ends(settings):
    a_job(settings, "bench", JobState.DONE, IMAGE)
    a_job(settings, "bench", JobState.QUEUED, OTHER)
    assert images_of_jobs(settings) == {OTHER.sha256}
