from dataclasses import replace

from core.domain.specs import EndpointSpec, EngineKind, EngineSettings, LaneSpec, ModelSpec
from core.ui.shared.resources import AUTOSTART_LIMIT, autostarted
from tests.vision_checkpoints import LLAVA, TEXT_ONLY, write_checkpoint


def lane(name, checkpoint):
    return LaneSpec(
        name=name,
        kind=EngineKind.TRANSFORMERS,
        model=ModelSpec(name=name, checkpoint=checkpoint),
        settings=EngineSettings(device="cpu"),
    )


def test_text_lanes_that_can_run_start_with_the_dashboard_and_lanes_for_images_do_not(tmp_path):
    words = lane("words", write_checkpoint(tmp_path / "words", TEXT_ONLY))
    images = lane("images", write_checkpoint(tmp_path / "llava", LLAVA))
    missing = lane("missing", str(tmp_path / "nowhere"))
    remote = LaneSpec(name="r", kind=EngineKind.ENDPOINT, endpoint=EndpointSpec(url="http://h/v1"))
    assert autostarted((images, remote, missing, words), gpu=False) == (words,)


def test_not_more_start_than_a_page_shows(tmp_path):
    words = lane("words", write_checkpoint(tmp_path / "words", TEXT_ONLY))
    many = tuple(replace(words, name=f"words{n}") for n in range(AUTOSTART_LIMIT + 2))
    assert autostarted(many, gpu=False) == many[:AUTOSTART_LIMIT]
