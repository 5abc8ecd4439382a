"""What a checkpoint's files tell about images, which lanes take them, and what they cost of the context."""

import json
import os
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest

from core.domain.conversation import Exchange, StoredImage, messages_for
from core.domain.specs import EndpointSpec, EngineKind, EngineSettings, LaneSpec, ModelSpec, Weights
from core.domain.turns import RequestPlan
from core.models import vision
from core.models.checkpoint import LmdeploySupport
from core.models.context import as_seen, context_use, not_sendable, too_large, vision_context_tokens
from core.models.vision import (
    FixedSize,
    NativeResolution,
    Tiles,
    VisionModel,
    is_vision,
    not_served,
    refusal,
    vision_of,
)
from tests.vision_checkpoints import (
    INTERNVL,
    INTERNVL_FILES,
    LLAVA,
    LLAVA_FILES,
    QWEN,
    QWEN_FILES,
    TEXT_ONLY,
    write_checkpoint,
)

TURBOMIND_TOO = {EngineKind.TRANSFORMERS, EngineKind.TURBOMIND, EngineKind.AWQ, EngineKind.PYTORCH}
NOT_TURBOMIND = {EngineKind.TRANSFORMERS, EngineKind.PYTORCH}
QWEN2_5 = NativeResolution(patch_size=14, merge_size=2, min_pixels=56 * 56, max_pixels=12_845_056)
NARROW = NativeResolution(patch_size=14, merge_size=2, min_pixels=56 * 56, max_pixels=28 * 28 * 64)
INTERNVL3 = Tiles(tile_width_px=448, tile_height_px=448, min_tiles=1, max_tiles=12, tokens_per_tile=256)


@pytest.fixture
def checkpoint(tmp_path):
    def write(config, files=None):
        return write_checkpoint(tmp_path / "model", config, files)

    return write


def lane(checkpoint, kind=EngineKind.PYTORCH, weights=Weights.CHECKPOINT, **forms):
    model = ModelSpec(name="it", checkpoint=str(checkpoint), **forms)
    return LaneSpec(name="l", kind=kind, model=model, weights=weights, settings=EngineSettings())


def endpoint(vision):
    return LaneSpec(
        name="e", kind=EngineKind.ENDPOINT, endpoint=EndpointSpec(url="http://h/v1", vision=vision)
    )


def test_llava(checkpoint):
    vision = vision_of(checkpoint(LLAVA, LLAVA_FILES))
    assert vision.architecture == "LlavaForConditionalGeneration"
    assert vision.served_by == NOT_TURBOMIND
    assert vision.context_tokens == 4096
    cost = vision.cost(4000, 300)
    assert (cost.width_px, cost.height_px, cost.tokens) == (336, 336, 576)


def test_llava_that_keeps_the_class_token(checkpoint):
    vision = vision_of(checkpoint({**LLAVA, "vision_feature_select_strategy": "full"}, LLAVA_FILES))
    assert vision.cost(10, 10).tokens == 577


def test_llava_that_squashes_instead_of_cropping(checkpoint):
    files = {
        "preprocessor_config.json": {
            "do_center_crop": False,
            "size": {"height": 336, "width": 336},
            "crop_size": {"height": 224, "width": 224},
        }
    }
    assert vision_of(checkpoint(LLAVA, files)).cost(10, 10).tokens == 576


def test_llava_over_siglip_is_for_transformers_only(checkpoint):
    tower = {"model_type": "siglip_vision_model", "image_size": 384, "patch_size": 14}
    vision = vision_of(
        checkpoint(
            {**LLAVA, "vision_config": tower, "vision_feature_select_strategy": "full"},
            {"preprocessor_config.json": {"size": {"height": 384, "width": 384}}},
        )
    )
    assert vision.served_by == {EngineKind.TRANSFORMERS}
    assert vision.cost(100, 50).tokens == 27 * 27


def test_llavas_published_config_names_little_of_its_tower(checkpoint):
    """llava-1.5's config.json relies on the defaults of `LlavaConfig` and has the size in another file."""
    bare = {key: value for key, value in LLAVA.items() if key != "vision_feature_select_strategy"}
    vision = vision_of(checkpoint({**bare, "vision_config": {}}, LLAVA_FILES))
    assert vision.cost(1, 1).tokens == 576


def test_qwen_has_no_nested_text_config(checkpoint):
    vision = vision_of(checkpoint(QWEN, QWEN_FILES))
    assert vision.served_by == TURBOMIND_TOO
    assert vision.context_tokens == 128000
    cost = vision.cost(1000, 700)
    assert (cost.width_px, cost.height_px, cost.tokens) == (1008, 700, 36 * 25 + 2)


def test_nested_image_settings_go_before_the_file_of_their_own(checkpoint):
    nested = {"processor_config.json": {"image_processor": {"max_pixels": 28 * 28 * 4, "merge_size": 2}}}
    assert vision_of(checkpoint(QWEN, QWEN_FILES | nested)).cost(2000, 2000).tokens == 4 + 2


def test_newer_files_name_qwens_limits_in_size(checkpoint):
    size = {"shortest_edge": 3136, "longest_edge": 28 * 28 * 4}
    vision = vision_of(checkpoint(QWEN, {"preprocessor_config.json": {"size": size}}))
    assert vision.cost(2000, 2000).tokens == 6


def test_internvl_counts_tiles_and_a_thumbnail(checkpoint):
    vision = vision_of(checkpoint(INTERNVL, INTERNVL_FILES))
    assert vision.served_by == TURBOMIND_TOO
    assert vision.context_tokens == 32768
    one, several = vision.cost(300, 300), vision.cost(896, 448)
    assert (one.width_px, one.height_px, one.tokens) == (448, 448, 256 + 2)
    assert (several.width_px, several.height_px, several.tokens) == (896, 448, 3 * 256 + 2)


@pytest.mark.parametrize("files", [{}, {"preprocessor_config.json": {"size": "large"}}])
def test_files_that_lack_what_the_arithmetic_needs_leave_the_cost_unknown(checkpoint, files):
    vision = vision_of(checkpoint(INTERNVL, files))
    assert vision.served_by == TURBOMIND_TOO
    assert vision.cost(100, 100) is None


def test_an_unknown_vision_architecture_is_left_to_transformers(checkpoint):
    vision = vision_of(
        checkpoint({"architectures": ["NextYearsModel"], "vision_config": {"patch_size": 3}}, LLAVA_FILES)
    )
    assert vision.served_by == {EngineKind.TRANSFORMERS}
    assert vision.cost(100, 100) is None
    assert vision.context_tokens is None


def test_a_text_model_has_no_vision_side(checkpoint):
    assert vision_of(checkpoint(TEXT_ONLY)) is None


def test_a_checkpoint_that_is_not_here_or_broken_is_unknown(tmp_path):
    assert vision_of(str(tmp_path / "nowhere")) is None
    (tmp_path / "config.json").write_text("{")
    assert vision_of(str(tmp_path)) is None
    assert refusal(lane(tmp_path / "nowhere")) is None


def test_a_changed_file_is_read_again(checkpoint):
    path = checkpoint(LLAVA, LLAVA_FILES)
    assert vision_of(path) is vision_of(path)
    file = Path(path, "preprocessor_config.json")
    file.write_text(json.dumps({"crop_size": {"height": 140, "width": 140}}))
    os.utime(file, ns=(1, 1))
    assert vision_of(path).cost(1, 1).width_px == 140


class TestChatTemplate:
    """LMDeploy knows LLaVA-1.5 by the name of its folder alone; here the folder is called `model`."""

    VICUNA = "{{ 'USER: ' }}{{ 'ASSISTANT: ' }}"
    CHATML = "<|im_start|>user"

    @pytest.mark.parametrize(
        ("files", "expected"),
        [
            ({}, "llava-v1"),
            ({"chat_template.json": {"chat_template": VICUNA}}, "llava-v1"),
            ({"processor_config.json": {"chat_template": VICUNA}}, "llava-v1"),
            ({"tokenizer_config.json": {"chat_template": CHATML}}, None),
        ],
    )
    def test_llava_by_its_own_template(self, checkpoint, files, expected):
        assert vision_of(checkpoint(LLAVA, files)).lmdeploy_chat_template == expected

    def test_a_plain_file_is_looked_into_first(self, checkpoint):
        path = checkpoint(LLAVA, {"tokenizer_config.json": {"chat_template": self.VICUNA}})
        Path(path, "chat_template.jinja").write_text(self.CHATML)
        assert vision_of(path).lmdeploy_chat_template is None

    def test_one_that_the_checkpoint_brings_for_lmdeploy_is_used(self, checkpoint):
        path = checkpoint(LLAVA, {"lmdeploy_chat_template.json": {"user": "Q"}})
        assert vision_of(path).lmdeploy_chat_template == str(Path(path, "lmdeploy_chat_template.json"))

    def test_other_architectures_are_left_to_lmdeploy(self, checkpoint):
        assert vision_of(checkpoint(QWEN, QWEN_FILES)).lmdeploy_chat_template is None


class TestLanes:
    @pytest.mark.parametrize("kind", [EngineKind.PYTORCH, EngineKind.TRANSFORMERS])
    def test_lanes_that_take_images(self, checkpoint, kind):
        spec = lane(checkpoint(LLAVA, LLAVA_FILES), kind)
        assert (refusal(spec), not_served(spec), is_vision(spec)) == (None, None, True)

    def test_llava_is_never_turbominds(self, checkpoint):
        spec = lane(checkpoint(LLAVA, LLAVA_FILES), EngineKind.TURBOMIND)
        assert refusal(spec) == not_served(spec)
        assert refusal(spec).code == "engine-without-vision"
        assert refusal(spec).message == "TurboMind doesn't support LlavaForConditionalGeneration."
        assert refusal(spec).hint == 'Use another engine for the lane: "transformers", "pytorch".'

    def test_what_no_engine_serves_says_what_else_to_take(self, checkpoint):
        spec = lane(checkpoint({"architectures": ["LlavaLlamaForCausalLM"]}), EngineKind.TRANSFORMERS)
        assert "llava-hf" in refusal(spec).hint

    def test_a_text_only_model_is_refused_but_may_run(self, checkpoint):
        spec = lane(checkpoint(TEXT_ONLY))
        assert refusal(spec).code == "text-only"
        assert (not_served(spec), is_vision(spec)) == (None, False)

    def test_a_gguf_of_a_vision_model_sees_nothing(self, checkpoint):
        spec = lane(checkpoint(LLAVA), EngineKind.TRANSFORMERS, Weights.GGUF, gguf="/m.gguf")
        assert refusal(spec).code == "text-only"
        assert "GGUF" in refusal(spec).message
        assert not is_vision(spec)

    def test_the_form_that_the_lane_loads_decides(self, checkpoint, tmp_path):
        awq = write_checkpoint(tmp_path / "awq", TEXT_ONLY)
        spec = lane(checkpoint(QWEN, QWEN_FILES), EngineKind.AWQ, Weights.AWQ, awq=awq)
        assert refusal(spec).code == "text-only"
        assert refusal(replace(spec, kind=EngineKind.TURBOMIND, weights=Weights.CHECKPOINT)) is None

    @pytest.mark.parametrize(("said", "refused", "vision"), [(None, False, False), (True, False, True)])
    def test_an_endpoint_is_asked_unless_somebody_said_no(self, said, refused, vision):
        assert (refusal(endpoint(said)) is not None, is_vision(endpoint(said))) == (refused, vision)

    def test_an_endpoint_for_text_is_refused(self):
        assert refusal(endpoint(False)).code == "text-only"
        assert not is_vision(endpoint(False))


def served_by(architecture):
    return VisionModel(architecture=architecture, lmdeploy_chat_template=None, context_tokens=None).served_by


@pytest.mark.parametrize(
    "architecture", ["Qwen3_5MoeForConditionalGeneration", "InternS1ForConditionalGeneration"]
)
def test_the_installed_lmdeploy_says_what_it_serves(architecture):
    assert served_by(architecture) == TURBOMIND_TOO


def test_checkpoints_with_code_of_their_own_are_not_for_transformers():
    assert served_by("InternVLChatModel") == TURBOMIND_TOO - {EngineKind.TRANSFORMERS}
    assert served_by("LlavaLlamaForCausalLM") == set()


def test_without_its_tables_lmdeploy_has_the_last_word(monkeypatch):
    monkeypatch.setattr(vision, "lmdeploy_support", lambda python: None)
    assert served_by("NextYearsModel") == TURBOMIND_TOO


def test_a_lane_with_an_lmdeploy_of_its_own_goes_by_that(checkpoint, monkeypatch):
    own = {
        "/opt/old/bin/python": LmdeploySupport(version="0.13.0", turbomind=frozenset(), pytorch=frozenset())
    }
    monkeypatch.setattr(vision, "lmdeploy_support", own.get)
    spec = lane(checkpoint(QWEN, QWEN_FILES), EngineKind.TURBOMIND)
    assert not_served(spec) is None
    old = replace(spec, settings=EngineSettings(python="/opt/old/bin/python"))
    assert not_served(old).code == "engine-without-vision"


@pytest.mark.skipif(find_spec("transformers") is None, reason="transformers is not installed")
def test_the_installed_transformers_knows_none_of_those_with_their_own_code():
    home = Path(find_spec("transformers").origin).parent
    known = (home / "models" / "auto" / "modeling_auto.py").read_text("utf-8")
    assert not [name for name in vision._NOT_IN_TRANSFORMERS if f'"{name}"' in known]


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


def lane_with(folder, config, files=None, kind=EngineKind.PYTORCH, name="l", **settings):
    return LaneSpec(
        name=name,
        kind=kind,
        model=ModelSpec(name="m", checkpoint=write_checkpoint(folder, config, files)),
        settings=EngineSettings(**settings),
    )


def test_the_context_is_the_sessions_or_the_models(tmp_path):
    files = (LLAVA, LLAVA_FILES)
    assert vision_context_tokens(lane_with(tmp_path, *files, session_len=1000)) == 1000
    assert vision_context_tokens(lane_with(tmp_path, *files, EngineKind.TRANSFORMERS)) == 4096
    assert vision_context_tokens(lane_with(tmp_path, TEXT_ONLY, kind=EngineKind.TRANSFORMERS)) is None
    remote = LaneSpec(name="e", kind=EngineKind.ENDPOINT, endpoint=EndpointSpec(url="http://h/v1"))
    assert vision_context_tokens(remote) is None
    assert context_use(remote, messages_for("?", images=(CAT,))).left_tokens is None


def test_images_of_the_whole_conversation_count(tmp_path):
    spec = lane_with(tmp_path, LLAVA, LLAVA_FILES, session_len=2000)
    messages = messages_for("And now?", earlier=[Exchange("?", "A cat.", (CAT, CAT))], images=(CAT,))
    use = context_use(spec, messages)
    assert (use.image_tokens, use.context_tokens, use.left_tokens) == (1728, 2000, 272)
    assert too_large(spec, messages) is None
    (tight,) = [too_large(lane_with(tmp_path, LLAVA, LLAVA_FILES, session_len=1728), messages)]
    assert tight.code == "images-too-large"
    assert "1,728 tokens" in tight.message
    assert "session_len" in tight.hint


def test_an_unknown_cost_refuses_nothing(tmp_path):
    spec = lane_with(tmp_path, INTERNVL, session_len=8)
    messages = messages_for("?", images=(CAT,))
    assert context_use(spec, messages).image_tokens is None
    assert not_sendable(spec, messages) is None


def test_only_images_are_refused(tmp_path):
    spec = lane_with(tmp_path, TEXT_ONLY)
    assert not_sendable(spec, messages_for("?")) is None
    assert not_sendable(spec, messages_for("?", images=(CAT,))).code == "text-only"
    earlier = [Exchange("?", "A cat.", (CAT,))]
    assert not_sendable(spec, messages_for("?", earlier=earlier)).code == "text-only"


def test_what_each_model_sees_is_told_for_the_last_message(tmp_path):
    lanes = [
        lane_with(tmp_path / "a", LLAVA, LLAVA_FILES, name="llava"),
        lane_with(tmp_path / "b", QWEN, QWEN_FILES, name="qwen"),
        lane_with(tmp_path / "c", INTERNVL, name="unknown"),
    ]
    messages = messages_for("?", images=(CAT, CAT))
    assert as_seen([RequestPlan(lane=spec, messages=messages) for spec in lanes]) == {
        "llava": "1,152 tokens at 336 × 336 px",
        "qwen": "1,804 tokens at 1008 × 700 px",
    }
    assert as_seen([RequestPlan(lane=lanes[0], messages=messages_for("?"))]) == {}
