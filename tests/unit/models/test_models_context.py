import json
from dataclasses import replace

import pytest

from core.domain.conversation import Message, Role
from core.domain.specs import EndpointSpec, EngineKind, EngineSettings, LaneSpec, ModelSpec
from core.models.context import context_tokens, estimated_tokens, exceeded_context


@pytest.fixture
def hf(tmp_path):
    config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "max_position_embeddings": 512}
    (tmp_path / "config.json").write_text(json.dumps(config))
    model = ModelSpec(name="tiny", checkpoint=str(tmp_path))
    return LaneSpec(name="hf", kind=EngineKind.TRANSFORMERS, model=model)


def said(text):
    return (Message(Role.SYSTEM, "Be brief."), Message(Role.USER, text))


def test_english_has_about_four_characters_a_token_and_chinese_one_and_a_half():
    assert estimated_tokens(said("word " * 400)) == pytest.approx(500, abs=5)
    assert estimated_tokens(said("中文" * 300)) == pytest.approx(400, abs=5)


def test_a_transformers_lane_has_the_context_of_its_model(hf):
    assert context_tokens(hf) == 512
    assert exceeded_context(hf, said("word " * 300)) is None
    assert exceeded_context(hf, said("word " * 500)) == 512


def test_a_turbomind_lane_has_its_session_len(hf):
    lane = replace(hf, kind=EngineKind.TURBOMIND, settings=EngineSettings(session_len=128))
    assert exceeded_context(lane, said("word " * 200)) == 128


def test_what_is_not_known_is_not_warned_about(hf, tmp_path):
    endpoint = EndpointSpec(url="http://gpu:1/v1")
    remote = LaneSpec(name="far", kind=EngineKind.ENDPOINT, endpoint=endpoint)
    gone = replace(hf, model=ModelSpec(name="gone", checkpoint=str(tmp_path / "gone")))
    for lane in (remote, gone):
        assert exceeded_context(lane, said("word " * 100_000)) is None
