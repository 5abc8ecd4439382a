"""When the demo models are prepared in the background, and which job makes which model's files."""

import pytest

from core.config import DEMO_NAME, VISION_DEMO_NAME, demo_model, demo_vision_model
from core.domain.specs import EngineKind, LaneSpec, ModelSpec
from core.jobs.registry import JobFolder, JobRecord, JobSpec, JobState
from core.models import demo_models
from core.models import job as models_job
from core.models.job import PREPARING_DEMOS, QUANTISING, job_that_makes
from core.settings import load_settings


@pytest.fixture
def settings(tmp_path):
    return load_settings({"LMDYNO_HOME": str(tmp_path)})


@pytest.fixture
def prepared(monkeypatch):
    """Which of the two are there; preparing adds to it."""
    there: list[str] = []
    for name in ("text", "vision"):
        monkeypatch.setattr(demo_models, f"is_{name}_prepared", lambda settings, name=name: name in there)

        def prepare(settings, report, name=name):
            there.append(name)
            return ModelSpec(name=name, checkpoint=name)

        monkeypatch.setattr(demo_models, f"prepare_{name}", prepare)
    return there


def lane(model):
    return LaneSpec(name="x", kind=EngineKind.TRANSFORMERS, model=model)


def test_a_lane_wants_what_is_not_there(settings, prepared):
    text, vision = lane(demo_model(settings)), lane(demo_vision_model(settings))
    other = lane(ModelSpec(name="other", checkpoint="/models/other"))

    assert models_job.are_demos_wanted(settings, (other, text))
    prepared.append("text")
    assert not models_job.are_demos_wanted(settings, (other, text))
    assert models_job.are_demos_wanted(settings, (text, vision))
    prepared.append("vision")
    assert not models_job.are_demos_wanted(settings, (text, vision))


@pytest.mark.parametrize("gpu", [False, True])
def test_quantising_begins_before_the_job_ends(settings, prepared, monkeypatch, gpu):
    order: list[str] = []
    monkeypatch.setattr(models_job, "load_settings", lambda: settings)
    monkeypatch.setattr(models_job.Nvml, "devices", lambda self: ("gpu",) if gpu else ())
    monkeypatch.setattr(models_job, "prepare_demo_awq", lambda _: order.append("quantise") or "job1")

    result = models_job.prepare_demos({}, lambda *_: None)

    assert result == {"models": ["text", "vision"], "quantising": "job1" if gpu else None}
    assert order == (["quantise"] if gpu else [])


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
