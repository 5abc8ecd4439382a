"""Which models keep a plain KV cache, by their published configs."""

import pytest

from core.errors import InputError
from core.models.attention import AttentionKind, attention_of
from core.models.model_config import ModelConfig
from tests.unit.models import model_configs as published


def attention(config, **changes):
    return attention_of(ModelConfig({**config, **changes}, "here"))


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("LLAMA_3_1_8B", AttentionKind.PLAIN),
        ("QWEN2_5_7B", AttentionKind.PLAIN),
        ("MISTRAL_7B_V0_3", AttentionKind.PLAIN),
        ("MIXTRAL_8X7B", AttentionKind.PLAIN),
        ("QWEN3_30B_A3B", AttentionKind.PLAIN),
        ("LLAVA_1_5_7B", AttentionKind.PLAIN),
        ("INTERNVL2_26B", AttentionKind.PLAIN),
        ("MISTRAL_7B_V0_1", AttentionKind.WINDOW),
        ("GEMMA_3_4B", AttentionKind.WINDOW),
        ("GPT_OSS_20B", AttentionKind.WINDOW),
        ("QWEN3_NEXT_80B", AttentionKind.HYBRID),
        ("QWEN3_5_35B_A3B", AttentionKind.HYBRID),
        ("JAMBA", AttentionKind.HYBRID),
        ("NEMOTRON_H_8B", AttentionKind.HYBRID),
        ("MINIMAX_TEXT_01", AttentionKind.HYBRID),
        ("LLAMA_3_2_11B_VISION", AttentionKind.CROSS),
        ("DECILM_7B", AttentionKind.UNEVEN),
        ("DEEPSEEK_V2_LITE", AttentionKind.LATENT),
        ("FALCON_7B", AttentionKind.UNKNOWN),
    ],
)
def test_published_models(name, kind):
    found = attention(getattr(published, name))

    assert found.kind is kind
    assert found.is_plain == (kind is AttentionKind.PLAIN)
    assert (found.reason is None) == found.is_plain


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({"sliding_window": 131_072}, AttentionKind.PLAIN),
        ({"sliding_window": 200_000}, AttentionKind.PLAIN),
        ({"sliding_window": 4096}, AttentionKind.WINDOW),
        ({"sliding_window": 4096, "use_sliding_window": False}, AttentionKind.PLAIN),
        ({"sliding_window": 4096, "use_sliding_window": True, "max_window_layers": 32}, AttentionKind.PLAIN),
        ({"sliding_window": 4096, "use_sliding_window": True, "max_window_layers": 20}, AttentionKind.WINDOW),
        ({"sliding_window": 4096, "layer_types": ["full_attention"] * 32}, AttentionKind.PLAIN),
        ({"sliding_window": None}, AttentionKind.PLAIN),
        ({"attention_chunk_size": 8192}, AttentionKind.WINDOW),
        ({"layer_types": ["chunked_attention", "full_attention"]}, AttentionKind.WINDOW),
        ({"layer_types": ["mamba", "full_attention"]}, AttentionKind.HYBRID),
        ({"full_attention_interval": 1}, AttentionKind.PLAIN),
        ({"num_key_value_heads": [8, 4]}, AttentionKind.UNEVEN),
        ({"block_configs": [{"attention": {"n_heads_in_group": 8}}]}, AttentionKind.UNEVEN),
        ({"model_type": "next_years"}, AttentionKind.UNKNOWN),
    ],
)
def test_keys_that_change_a_llama(changes, kind):
    assert attention(published.LLAMA_3_1_8B, **changes).kind is kind


def test_a_window_of_an_odd_type_names_the_key():
    with pytest.raises(InputError, match="sliding_window should be a whole number"):
        attention(published.LLAMA_3_1_8B, sliding_window="4k")
