import json
import struct
from dataclasses import replace

import pytest

from core.domain.specs import EngineKind, EngineSettings, LaneSpec, ModelSpec, Weights
from core.errors import InputError
from core.memory import model_sizes
from core.memory.model_sizes import COMMON_MODELS, checkpoint_sizes, lane_weight_bytes, loaded_weight_bytes
from core.memory.prediction import kv_bytes_per_token
from core.models.checkpoint import CheckpointFacts, LmdeploySupport, facts_of_config
from core.models.model_config import Attention, AttentionKind, ModelConfig
from core.models.weight_files import Quantization, WeightFacts
from tests.unit.models import model_configs as published

PUBLISHED_PARAMETERS = {
    "Qwen2.5-0.5B": 0.49e9,
    "InternLM2-1.8B": 1.89e9,
    "InternLM2.5-7B": 7.74e9,
    "Qwen2.5-7B": 7.61e9,
    "Llama-2-7B": 6.74e9,
    "Llama-3.1-8B": 8.03e9,
    "Qwen2.5-14B": 14.7e9,
    "InternLM2.5-20B": 19.9e9,
    "Qwen2.5-32B": 32.5e9,
    "Llama-3.1-70B": 70.6e9,
    "Qwen2.5-72B": 72.7e9,
}


SUPPORT = LmdeploySupport(
    version="0.18.0",
    turbomind=frozenset({"LlamaForCausalLM", "InternVLChatModel", "Qwen3_5MoeForConditionalGeneration"}),
    pytorch=frozenset(),
)


def facts(**changes):
    given = {
        "architecture": "LlamaForCausalLM",
        "model_type": "llama",
        "layers": 2,
        "hidden_size": 256,
        "heads": 2,
        "kv_heads": 2,
        "head_dim": 128,
        "intermediate_size": 512,
        "vocab_size": 1000,
        "tie_word_embeddings": False,
        "dtype": "float32",
        "max_position_embeddings": 4096,
        "quantized": None,
        "weight_bytes": 4_000_000,
        "parameters": 1_000_000,
        "linear_parameters": 600_000,
        "counted": False,
        "attention": Attention(AttentionKind.PLAIN),
        "experts": None,
        "expert_intermediate_size": None,
    }
    return CheckpointFacts(**{**given, **changes})


def sizes(given, *, awq=False):
    return checkpoint_sizes(given, awq=awq, support=SUPPORT)


@pytest.mark.parametrize("model", COMMON_MODELS, ids=lambda model: model.name)
def test_the_dimensions_give_the_published_size(model):
    assert model.facts.parameters == pytest.approx(PUBLISHED_PARAMETERS[model.name], rel=0.015)


def test_known_bytes_of_a_token():
    per_token = {model.name: kv_bytes_per_token(sizes(model.facts).kv) for model in COMMON_MODELS}
    assert per_token["Qwen2.5-7B"] == 57_344
    assert per_token["Llama-2-7B"] == 524_288


def test_awq_shrinks_the_linear_layers_only():
    model = next(model.facts for model in COMMON_MODELS if model.name == "Llama-2-7B")
    plain, awq = sizes(model).weight_bytes, sizes(model, awq=True).weight_bytes
    assert plain == 2 * model.parameters
    assert 2 * model.embedding_parameters < awq < 0.32 * plain


def test_awq_of_a_vision_model_leaves_its_tower():
    internvl = facts_of_config(ModelConfig(published.INTERNVL2_26B, "x"))
    assert sizes(internvl, awq=True).weight_bytes == pytest.approx(21.9 * 2**30, rel=0.01)


def test_turbomind_loads_a_float32_checkpoint_in_16_bits():
    assert sizes(facts()).weight_bytes == 2_000_000


def test_a_quantised_checkpoint_is_loaded_as_it_is():
    quantised = sizes(facts(quantized=Quantization(method="awq"), weight_bytes=700_000))
    assert (quantised.weight_bytes, quantised.awq) == (700_000, True)


def test_counted_weights_are_said_to_be():
    assert sizes(facts(counted=True)).counted
    assert not sizes(facts()).counted


def test_a_cache_that_is_laid_out_otherwise_is_refused():
    with pytest.raises(InputError, match="MLA"):
        sizes(facts(attention=Attention(AttentionKind.LATENT, "it is MLA")))


def test_what_the_installed_turbomind_does_not_serve_is_refused():
    with pytest.raises(InputError, match=r"LMDeploy 0\.18\.0 doesn't support MistralFor") as caught:
        sizes(facts(architecture="MistralForCausalLM"))
    assert caught.value.code == "turbomind-unsupported"


def test_without_lmdeploy_plain_models_can_be_predicted(monkeypatch):
    monkeypatch.setattr(model_sizes, "lmdeploy_support", lambda: None)
    assert checkpoint_sizes(facts(architecture="MistralForCausalLM"), awq=False).kv.layers == 2


PLAIN = WeightFacts(size_bytes=400, parameters=100, linear_parameters=60, quantized=None)
PACKED = WeightFacts(
    size_bytes=70, parameters=100, linear_parameters=60, quantized=Quantization(method="awq")
)


@pytest.mark.parametrize(
    ("weights", "kind", "dtype", "expected"),
    [
        (PLAIN, EngineKind.TURBOMIND, "auto", 200),
        (PLAIN, EngineKind.TRANSFORMERS, "auto", 400),
        (PLAIN, EngineKind.TRANSFORMERS, "bfloat16", 200),
        (PLAIN, EngineKind.TRANSFORMERS, "float32", 400),
        (PACKED, EngineKind.AWQ, "float16", 70),
        (PACKED, EngineKind.TRANSFORMERS, "float32", 70),
        (replace(PLAIN, parameters=None), EngineKind.TRANSFORMERS, "float16", 400),
    ],
)
def test_what_an_engine_makes_of_a_checkpoint(weights, kind, dtype, expected):
    assert loaded_weight_bytes(weights, kind, dtype) == expected


def gguf(path, shape=(32, 4), kind=3):
    """A file with one tensor, in 4-bit blocks as long as nothing else is said."""
    name = b"token_embd.weight"
    header = b"GGUF" + struct.pack("<IQQ", 3, 1, 0)
    header += struct.pack("<Q", len(name)) + name + struct.pack("<I", len(shape))
    header += b"".join(struct.pack("<Q", side) for side in shape) + struct.pack("<IQ", kind, 0)
    path.write_bytes(header + bytes(200))
    return str(path)


def lane(**changes):
    given = {"name": "x", "kind": EngineKind.TRANSFORMERS, "weights": Weights.CHECKPOINT}
    return LaneSpec(**{**given, **changes})


@pytest.mark.parametrize(("dtype", "expected"), [("auto", 512), ("float32", 512), ("bfloat16", 256)])
def test_a_gguf_file_is_unpacked(tmp_path, dtype, expected):
    model = ModelSpec(name="m", checkpoint="x", gguf=gguf(tmp_path / "small.gguf"))
    spec = lane(model=model, weights=Weights.GGUF, settings=EngineSettings(dtype=dtype))
    assert lane_weight_bytes(spec) == expected


def test_headers_are_enough(tmp_path):
    """Sizes that config.json leaves out are no reason for an unknown weight."""
    (tmp_path / "config.json").write_text("{}")
    header = json.dumps({"w": {"dtype": "F16", "shape": [50], "data_offsets": [0, 100]}}).encode()
    (tmp_path / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(100))
    assert lane_weight_bytes(lane(model=ModelSpec(name="m", checkpoint=str(tmp_path)))) == 100


@pytest.mark.parametrize("path", ["/nowhere", "org/never-downloaded"])
def test_unknown_is_none_and_never_0(path):
    assert lane_weight_bytes(lane(model=ModelSpec(name="m", checkpoint=path))) is None
    missing = lane(model=ModelSpec(name="m", checkpoint=path, gguf=f"{path}.gguf"), weights=Weights.GGUF)
    assert lane_weight_bytes(missing) is None
    assert lane_weight_bytes(lane(model=ModelSpec(name="m", checkpoint=path), weights=Weights.GGUF)) is None
