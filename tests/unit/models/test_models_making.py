"""Which job makes which model's files."""

import pytest

from core.config import DEMO_NAME, VISION_DEMO_NAME, demo_model
from core.jobs.records import JobFolder, JobRecord, JobSpec, JobState
from core.models.awq.job import JOB_KIND as QUANTISING
from core.models.demo.job import JOB_KIND as PREPARING_DEMOS
from core.models.making import job_that_makes
from core.settings import load_settings


@pytest.fixture
def settings(tmp_path):
    return load_settings({"LMDYNO_HOME": str(tmp_path)})


def job(settings, kind, **arguments):
    spec = JobSpec(kind=kind, title="x", worker="none", arguments=arguments, python="none")
    folder = JobFolder(settings.home / "jobs" / spec.id)
    folder.create(spec)
    folder.write(JobRecord(state=JobState.DONE))
    return spec.id


def test_the_demo_job_makes_every_form_of_both_models(settings):
    model = demo_model(settings)
    assert job_that_makes(settings, settings.models_dir / DEMO_NAME) is None
    made = job(settings, PREPARING_DEMOS)

    for path in (model.checkpoint, model.gguf, model.awq, settings.models_dir / VISION_DEMO_NAME):
        assert job_that_makes(settings, settings.models_dir / path).id == made
    assert job_that_makes(settings, settings.models_dir / "other") is None


def test_a_quantisation_makes_its_target_and_nothing_else(settings):
    target = settings.models_dir / f"{DEMO_NAME}-awq"
    job(settings, PREPARING_DEMOS)
    made = job(settings, QUANTISING, target=str(target))

    assert job_that_makes(settings, target).id == made
    assert job_that_makes(settings, settings.models_dir / DEMO_NAME).spec.kind == PREPARING_DEMOS


def test_a_quantisation_on_a_node_makes_nothing_here(settings):
    target = settings.models_dir / "other-awq"
    job(settings, QUANTISING, target=str(target), node="gpu-1")
    assert job_that_makes(settings, target) is None
