"""The arithmetic of images against transformers' own code, and against the context."""

import pytest

from core.domain.conversation import Exchange, StoredImage, messages_for
from core.domain.specs import EndpointSpec, EngineKind, EngineSettings, LaneSpec, ModelSpec
from core.domain.turns import RequestPlan
from core.models.vision.context import as_seen, context_tokens, context_use, not_sendable, too_large
from core.models.vision.cost import FixedSize, NativeResolution, Tiles
from tests.vision_checkpoints import (
    INTERNVL,
    LLAVA,
    LLAVA_FILES,
    QWEN,
    QWEN_FILES,
    TEXT_ONLY,
    write_checkpoint,
)

QWEN2_5 = NativeResolution(patch_size=14, merge_size=2, min_pixels=56 * 56, max_pixels=12_845_056)
NARROW = NativeResolution(patch_size=14, merge_size=2, min_pixels=56 * 56, max_pixels=28 * 28 * 64)
INTERNVL3 = Tiles(tile_width_px=448, tile_height_px=448, min_tiles=1, max_tiles=12, tokens_per_tile=256)


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((644, 420), (644, 420, 23 * 15 + 2)),
        ((1, 1), (56, 56, 4 + 2)),
        ((4000, 3000), (4004, 2996, 143 * 107 + 2)),
        ((10_000, 8_000), (4004, 3192, 143 * 114 + 2)),
        ((28 * 200, 28), (5600, 28, 200 + 2)),
    ],
)
def test_qwen_keeps_about_the_images_own_size(size, expected):
    cost = QWEN2_5.cost(*size)
    assert (cost.width_px, cost.height_px, cost.tokens) == expected


def test_qwen_refuses_a_strip():
    assert QWEN2_5.cost(201, 1) is None
    assert QWEN2_5.cost(1, 201) is None


def test_llava_costs_the_same_for_every_image():
    clip = FixedSize(width_px=224, height_px=224, patch_size=16)
    assert {clip.cost(*size).tokens for size in [(1, 1), (5000, 10)]} == {14 * 14}


CAT = StoredImage(sha256="c" * 64, media_type="image/png", width_px=1000, height_px=700, size_bytes=9)


def lane(folder, config, files=None, kind=EngineKind.PYTORCH, name="l", **settings):
    return LaneSpec(
        name=name,
        kind=kind,
        model=ModelSpec(name="m", checkpoint=write_checkpoint(folder, config, files)),
        settings=EngineSettings(**settings),
    )


def test_the_context_is_the_sessions_or_the_models(tmp_path):
    files = (LLAVA, LLAVA_FILES)
    assert context_tokens(lane(tmp_path, *files, session_len=1000)) == 1000
    assert context_tokens(lane(tmp_path, *files, EngineKind.TRANSFORMERS)) == 4096
    assert context_tokens(lane(tmp_path, TEXT_ONLY, kind=EngineKind.TRANSFORMERS)) is None
    remote = LaneSpec(name="e", kind=EngineKind.ENDPOINT, endpoint=EndpointSpec(url="http://h/v1"))
    assert context_tokens(remote) is None
    assert context_use(remote, messages_for("?", images=(CAT,))).left_tokens is None


def test_images_of_the_whole_conversation_count(tmp_path):
    spec = lane(tmp_path, LLAVA, LLAVA_FILES, session_len=2000)
    messages = messages_for("And now?", earlier=[Exchange("?", "A cat.", (CAT, CAT))], images=(CAT,))
    use = context_use(spec, messages)
    assert (use.image_tokens, use.context_tokens, use.left_tokens) == (1728, 2000, 272)
    assert too_large(spec, messages) is None
    (tight,) = [too_large(lane(tmp_path, LLAVA, LLAVA_FILES, session_len=1728), messages)]
    assert tight.code == "images-too-large"
    assert "1,728 tokens" in tight.message
    assert "session_len" in tight.hint


def test_an_unknown_cost_refuses_nothing(tmp_path):
    spec = lane(tmp_path, INTERNVL, session_len=8)
    messages = messages_for("?", images=(CAT,))
    assert context_use(spec, messages).image_tokens is None
    assert not_sendable(spec, messages) is None


def test_only_images_are_refused(tmp_path):
    spec = lane(tmp_path, TEXT_ONLY)
    assert not_sendable(spec, messages_for("?")) is None
    assert not_sendable(spec, messages_for("?", images=(CAT,))).code == "text-only"
    earlier = [Exchange("?", "A cat.", (CAT,))]
    assert not_sendable(spec, messages_for("?", earlier=earlier)).code == "text-only"


def test_what_each_model_sees_is_told_for_the_last_message(tmp_path):
    lanes = [
        lane(tmp_path / "a", LLAVA, LLAVA_FILES, name="llava"),
        lane(tmp_path / "b", QWEN, QWEN_FILES, name="qwen"),
        lane(tmp_path / "c", INTERNVL, name="unknown"),
    ]
    messages = messages_for("?", images=(CAT, CAT))
    assert as_seen([RequestPlan(lane=spec, messages=messages) for spec in lanes]) == {
        "llava": "1,152 tokens at 336 × 336 px",
        "qwen": "1,804 tokens at 1008 × 700 px",
    }
    assert as_seen([RequestPlan(lane=lanes[0], messages=messages_for("?"))]) == {}
