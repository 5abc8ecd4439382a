from dataclasses import replace

from core.config import demo_model
from core.config.lanes import demo_vision_model
from core.domain.specs import EndpointSpec, EngineKind, EngineSettings, LaneSpec, ModelSpec
from core.jobs.registry import JobFolder, JobRecord, JobSpec, JobState
from core.models.job import PREPARING_DEMOS
from core.settings import load_settings
from core.telemetry.processes import this_process
from core.ui.shared.resources import AUTOSTART_LIMIT, autostarted
from tests.vision_checkpoints import LLAVA, TEXT_ONLY, write_checkpoint


def lane(name, checkpoint):
    return LaneSpec(
        name=name,
        kind=EngineKind.TRANSFORMERS,
        model=ModelSpec(name=name, checkpoint=checkpoint),
        settings=EngineSettings(device="cpu"),
    )


def settings_of(home):
    return load_settings({"LMDYNO_HOME": str(home)})


def test_text_lanes_that_can_run_start_with_the_dashboard_and_lanes_for_images_do_not(tmp_path):
    words = lane("words", write_checkpoint(tmp_path / "words", TEXT_ONLY))
    images = lane("images", write_checkpoint(tmp_path / "llava", LLAVA))
    missing = lane("missing", str(tmp_path / "nowhere"))
    remote = LaneSpec(name="r", kind=EngineKind.ENDPOINT, endpoint=EndpointSpec(url="http://h/v1"))
    assert autostarted(settings_of(tmp_path), (images, remote, missing, words), gpu=False) == (words,)


def test_not_more_start_than_a_page_shows(tmp_path):
    words = lane("words", write_checkpoint(tmp_path / "words", TEXT_ONLY))
    many = tuple(replace(words, name=f"words{n}") for n in range(AUTOSTART_LIMIT + 2))
    assert autostarted(settings_of(tmp_path), many, gpu=False) == many[:AUTOSTART_LIMIT]


def test_lanes_whose_weights_are_being_made_start_too(tmp_path):
    settings = settings_of(tmp_path)
    demo = replace(lane("hf", ""), model=demo_model(settings))
    images = replace(lane("llava-hf", ""), model=demo_vision_model(settings))
    assert autostarted(settings, (demo,), gpu=False) == ()
    spec = JobSpec(kind=PREPARING_DEMOS, title="x", worker="none", arguments={}, python="none")
    folder = JobFolder(settings.home / "jobs" / spec.id)
    folder.create(spec)
    folder.write(JobRecord(state=JobState.RUNNING, runner=this_process()))
    assert autostarted(settings, (demo, images), gpu=False) == (demo,)
    folder.write(JobRecord(state=JobState.FAILED))
    assert autostarted(settings, (demo,), gpu=False) == ()
