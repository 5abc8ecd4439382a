from dataclasses import replace

from core.config import VISION_DEMO_NAME
from core.domain.specs import EndpointSpec, EngineKind, LaneSpec, ModelSpec
from core.ui.chat.session import CHAT, VISION
from tests.vision_checkpoints import LLAVA, LLAVA_FILES, TEXT_ONLY, write_checkpoint

REMOTE = LaneSpec(name="remote", kind=EngineKind.ENDPOINT, endpoint=EndpointSpec(url="http://host/v1"))
SEES = replace(REMOTE, name="sees", endpoint=replace(REMOTE.endpoint, vision=True))
BLIND = replace(REMOTE, name="blind", endpoint=replace(REMOTE.endpoint, vision=False))


def local(tmp_path, name, config, files=None, kind=EngineKind.TRANSFORMERS):
    model = ModelSpec(name=name, checkpoint=write_checkpoint(tmp_path / name, config, files))
    return LaneSpec(name=name, kind=kind, model=model)


def names(lanes):
    return [lane.name for lane in lanes]


def test_the_chat_offers_all_lanes_and_picks_those_that_need_no_engine_for_images(tmp_path):
    lanes = (local(tmp_path, "llava", LLAVA, LLAVA_FILES), REMOTE, SEES, BLIND)
    assert names(CHAT.offered(lanes)) == ["llava", "remote", "sees", "blind"]
    assert CHAT.picked_at_first(lanes) == ["remote", "sees", "blind"]


def test_vision_offers_what_may_see_and_picks_what_does(tmp_path):
    text = local(tmp_path, "text", TEXT_ONLY)
    wrong_engine = local(tmp_path, "tm", LLAVA, LLAVA_FILES, EngineKind.TURBOMIND)
    lanes = (text, local(tmp_path, "llava", LLAVA, LLAVA_FILES), wrong_engine, REMOTE, SEES, BLIND)
    assert names(VISION.offered(lanes)) == ["llava", "remote", "sees"]
    assert VISION.picked_at_first(lanes) == ["llava", "sees"]


def test_a_lane_is_picked_even_if_none_fits_best():
    assert VISION.picked_at_first((REMOTE, BLIND)) == ["remote"]
    assert CHAT.picked_at_first((SEES,)) == ["sees"]
    assert VISION.picked_at_first((BLIND,)) == []


def test_at_most_six_lanes_are_picked():
    lanes = tuple(replace(REMOTE, name=f"lane{number}") for number in range(8))
    assert CHAT.picked_at_first(lanes) == [f"lane{number}" for number in range(6)]


def test_the_demo_lane_is_for_images_before_its_model_is_prepared(tmp_path):
    model = ModelSpec(name=VISION_DEMO_NAME, checkpoint=str(tmp_path / "not-there"))
    demo = LaneSpec(name="llava-hf", kind=EngineKind.TRANSFORMERS, model=model)
    assert VISION.picked_at_first((demo, REMOTE)) == ["llava-hf"]
    assert CHAT.picked_at_first((demo, REMOTE)) == ["remote"]
