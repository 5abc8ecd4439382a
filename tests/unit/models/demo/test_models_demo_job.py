"""When the demo models are prepared in the background, and by what."""

import pytest

from core.config import demo_model, demo_vision_model
from core.domain.specs import EngineKind, LaneSpec, ModelSpec
from core.models.demo import job as demo_job
from core.settings import load_settings


@pytest.fixture
def settings(tmp_path):
    return load_settings({"LMDYNO_HOME": str(tmp_path)})


@pytest.fixture
def prepared(monkeypatch):
    """Which of the two are there; preparing adds to it."""
    there: list[str] = []
    for name, module in (("text", demo_job.demo_text), ("vision", demo_job.demo_vision)):
        monkeypatch.setattr(module, "is_prepared", lambda settings, name=name: name in there)

        def prepare(settings, report, name=name):
            there.append(name)
            return ModelSpec(name=name, checkpoint=name)

        monkeypatch.setattr(module, "prepare", prepare)
    return there


def lane(model):
    return LaneSpec(name="x", kind=EngineKind.TRANSFORMERS, model=model)


def test_a_lane_wants_what_is_not_there(settings, prepared):
    text, vision = lane(demo_model(settings)), lane(demo_vision_model(settings))
    other = lane(ModelSpec(name="other", checkpoint="/models/other"))

    assert demo_job.is_wanted(settings, (other, text))
    prepared.append("text")
    assert not demo_job.is_wanted(settings, (other, text))
    assert demo_job.is_wanted(settings, (text, vision))
    prepared.append("vision")
    assert not demo_job.is_wanted(settings, (text, vision))


@pytest.mark.parametrize("gpu", [False, True])
def test_quantising_begins_before_the_job_ends(settings, prepared, monkeypatch, gpu):
    order: list[str] = []
    monkeypatch.setattr(demo_job, "load_settings", lambda: settings)
    monkeypatch.setattr(demo_job.Nvml, "devices", lambda self: ("gpu",) if gpu else ())
    monkeypatch.setattr(demo_job, "prepare_demo_awq", lambda _: order.append("quantise") or "job1")

    result = demo_job.work({}, lambda *_: None)

    assert result == {"models": ["text", "vision"], "quantising": "job1" if gpu else None}
    assert order == (["quantise"] if gpu else [])
