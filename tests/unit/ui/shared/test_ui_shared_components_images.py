from dataclasses import replace

import pytest

from core.domain.conversation import Exchange, Sampling, StoredImage, messages_for
from core.domain.specs import EndpointSpec, EngineKind, EngineSettings, LaneSpec, ModelSpec
from core.domain.timing import Timing
from core.domain.turns import FinishReason, Phase, RequestPlan, RequestRecord, TurnPlan
from core.errors import InputError
from core.ui.shared.components import image_preview, images_counted, images_given, refuse_misfits
from tests.vision_checkpoints import LLAVA, LLAVA_FILES, QWEN, QWEN_FILES, TEXT_ONLY, write_checkpoint

IMAGE = StoredImage(sha256="ab" * 32, media_type="image/png", width_px=280, height_px=140, size_bytes=900)
LARGE = replace(IMAGE, sha256="cd" * 32, width_px=2800, height_px=2800)
REMOTE = LaneSpec(
    name="remote", kind=EngineKind.ENDPOINT, endpoint=EndpointSpec(url="http://gpu-host:23333/v1")
)


@pytest.fixture
def llava(tmp_path):
    """A LLaVA with 576 tokens an image and a context of 4,096."""
    checkpoint = write_checkpoint(tmp_path / "llava", LLAVA, LLAVA_FILES)
    return LaneSpec(
        name="llava", kind=EngineKind.TRANSFORMERS, model=ModelSpec(name="llava", checkpoint=checkpoint)
    )


@pytest.fixture
def qwen(tmp_path):
    """A model that keeps an image's own size."""
    checkpoint = write_checkpoint(tmp_path / "qwen", QWEN, QWEN_FILES)
    return LaneSpec(
        name="qwen", kind=EngineKind.TRANSFORMERS, model=ModelSpec(name="qwen", checkpoint=checkpoint)
    )


def plan(lane, *images, earlier=()):
    messages = messages_for("What is it?", earlier=earlier, images=images)
    return TurnPlan(
        conversation_id="c",
        prompt="What is it?",
        images=images,
        sampling=Sampling(),
        requests=(RequestPlan(lane=lane, messages=messages),),
    )


def answered(lane, *images, prompt_tokens=600, output_tokens=20):
    return RequestRecord(
        id="r",
        turn_id="t",
        lane=lane,
        messages=messages_for("What is it?", images=images),
        phase=Phase.DONE,
        finish_reason=FinishReason.STOP,
        prompt_tokens=prompt_tokens,
        timing=Timing(sent_ns=0, output_tokens=output_tokens),
    )


def test_images_are_counted_in_words():
    assert (images_counted(1), images_counted(3)) == ("1 image", "3 images")


def test_what_fits_is_sent_and_so_is_what_nobody_knows_about(llava):
    refuse_misfits(plan(llava, *[IMAGE] * 7))
    refuse_misfits(plan(REMOTE, *[IMAGE] * 8))
    refuse_misfits(plan(replace(REMOTE, endpoint=replace(REMOTE.endpoint, vision=False))))


def test_what_does_not_fit_is_refused_with_lane_needed_and_available_tokens(llava):
    with pytest.raises(InputError) as refused:
        refuse_misfits(plan(llava, *[IMAGE] * 8))
    assert "llava" in refused.value.message
    assert "4,608" in refused.value.message
    assert "4,096" in refused.value.message


def test_images_of_earlier_turns_take_their_place_too(llava):
    earlier = [Exchange("1?", "a", (IMAGE,) * 5)]
    with pytest.raises(InputError, match="4,608"):
        refuse_misfits(plan(llava, *[IMAGE] * 3, earlier=earlier))


def test_a_text_only_lane_is_refused_with_its_reason(tmp_path):
    model = ModelSpec(name="smol", checkpoint=write_checkpoint(tmp_path / "smol", TEXT_ONLY))
    lane = LaneSpec(name="hf", kind=EngineKind.TRANSFORMERS, model=model)
    with pytest.raises(InputError, match="hf: smol is a text-only model"):
        refuse_misfits(plan(lane, IMAGE))


def test_before_sending_the_lane_says_what_it_makes_of_the_new_images(llava, qwen):
    earlier = [Exchange("1?", "a", (IMAGE,))]
    assert image_preview(llava, messages_for("", earlier=earlier, images=(IMAGE, LARGE))) == (
        "336 × 336 px each: 1,152 tokens, leaving 2,368 of 4,096"
    )
    mixed = image_preview(qwen, messages_for("", images=(IMAGE, LARGE)))
    assert mixed.startswith("280 × 140 px (1), 2800 × 2800 px (1): ")
    assert image_preview(REMOTE, messages_for("", images=(IMAGE,))) is None


def test_too_much_is_said_before_sending(llava):
    engine = replace(llava, kind=EngineKind.PYTORCH, settings=EngineSettings(session_len=512))
    text = image_preview(engine, messages_for("", images=(IMAGE,)))
    assert text.endswith("**more than its context of 512**")


def test_an_answer_tells_what_was_given_and_what_is_left(llava):
    assert images_given(answered(llava, IMAGE)) == (
        "1 image, 336 × 336 px: 576 tokens · context: 620 used, 3,476 left"
    )


def test_an_answer_of_a_server_tells_what_is_known(llava):
    assert images_given(answered(REMOTE, IMAGE, IMAGE)) == (
        "2 images: the server decides on size and tokens · context: 620 used"
    )
    unknown = images_given(answered(llava, IMAGE, prompt_tokens=None))
    assert unknown == "1 image, 336 × 336 px: 576 tokens"


def test_what_was_never_sent_was_not_given(llava):
    refused = replace(
        answered(llava, IMAGE, IMAGE, prompt_tokens=None), timing=None, finish_reason=FinishReason.ERROR
    )
    assert images_given(refused) == "2 images, not sent"
