import pytest

from core.domain.specs import EngineKind
from core.errors import InputError
from core.memory.kv_cache import kv_bytes_per_token
from core.memory.model_sizes import COMMON_MODELS, checkpoint_sizes, loaded_weight_bytes
from core.models.checkpoint import CheckpointFacts

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
        "quantization": None,
        "group_size": None,
        "weight_bytes": 4_000_000,
        "parameters": 1_000_000,
        "sliding_window": None,
        "is_mla": False,
        "is_hybrid": False,
        "experts": None,
        "expert_intermediate_size": None,
    }
    return CheckpointFacts(**{**given, **changes})


@pytest.mark.parametrize("model", COMMON_MODELS, ids=lambda model: model.name)
def test_the_dimensions_give_the_published_size(model):
    assert model.parameters == pytest.approx(PUBLISHED_PARAMETERS[model.name], rel=0.015)


def test_known_bytes_of_a_token():
    per_token = {m.name: kv_bytes_per_token(m.sizes(awq=False).kv) for m in COMMON_MODELS}
    assert per_token["Qwen2.5-7B"] == 57_344
    assert per_token["Llama-2-7B"] == 524_288


def test_awq_shrinks_the_linear_layers_only():
    model = next(model for model in COMMON_MODELS if model.name == "Llama-2-7B")
    plain, awq = model.sizes(awq=False).weight_bytes, model.sizes(awq=True).weight_bytes
    assert plain == 2 * model.parameters
    assert 2 * model.embedding_parameters < awq < 0.32 * plain


def test_turbomind_loads_a_float32_checkpoint_in_16_bits():
    assert checkpoint_sizes(facts(), awq=False).weight_bytes == 2_000_000
    assert loaded_weight_bytes(facts(), EngineKind.TURBOMIND, "auto") == 2_000_000


def test_transformers_loads_what_the_lane_asks_for():
    assert loaded_weight_bytes(facts(), EngineKind.TRANSFORMERS, "auto") == 4_000_000
    assert loaded_weight_bytes(facts(), EngineKind.TRANSFORMERS, "bfloat16") == 2_000_000


def test_a_quantised_checkpoint_is_loaded_as_it_is():
    quantised = facts(quantization="awq", weight_bytes=700_000)
    assert checkpoint_sizes(quantised, awq=False).weight_bytes == 700_000


def test_a_cache_that_is_laid_out_otherwise_is_refused():
    with pytest.raises(InputError, match="MLA"):
        checkpoint_sizes(facts(is_mla=True), awq=False)
