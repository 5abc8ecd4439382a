"""What config.json says, what its class fills in, what is wrong with it, and how the layers attend."""

import pytest

from core.errors import InputError
from core.models.model_config import AttentionKind, ModelConfig, attention_of, read_config
from tests.unit.models import model_configs as published


def config(values):
    return ModelConfig(values, "here")


def test_what_llava_leaves_to_the_defaults_of_llama():
    llava = config(published.LLAVA_1_5_7B)

    sizes = [llava.size(name) for name in ("num_hidden_layers", "hidden_size", "intermediate_size")]
    assert sizes == [32, 4096, 11_008]
    assert (llava.heads, llava.kv_heads, llava.head_dim) == (32, 32, 128)
    assert (llava.size("vocab_size"), llava.whole("max_position_embeddings")) == (32_064, 4096)
    assert (llava.architecture, llava.model_type, llava.text_type) == (
        "LlavaForConditionalGeneration",
        "llava",
        "llama",
    )


def test_what_gemma_leaves_to_its_own():
    gemma = config(published.GEMMA_3_4B)

    assert (gemma.heads, gemma.kv_heads, gemma.head_dim) == (8, 4, 256)
    assert gemma.size("vocab_size") == 262_208
    assert gemma.tie_word_embeddings


def test_a_nested_model_without_a_type_has_the_outer_ones_default():
    text = {key: value for key, value in published.LLAVA_1_5_7B["text_config"].items() if key != "model_type"}
    assert config({**published.LLAVA_1_5_7B, "text_config": text}).text_type == "llama"


def test_null_is_an_answer():
    """Mistral's class has a window that its later configs take back."""
    assert config(published.MISTRAL_7B_V0_3).whole("sliding_window") is None
    without = {k: v for k, v in published.MISTRAL_7B_V0_3.items() if k != "sliding_window"}
    assert config(without).whole("sliding_window") == 4096


def test_multi_query_attention_has_one_kv_head():
    assert config(published.FALCON_7B).kv_heads == 1
    newer = {**published.FALCON_7B, "new_decoder_architecture": True, "num_kv_heads": 8}
    assert config(newer).kv_heads == 8
    assert config(published.FALCON_7B).size("intermediate_size") == 4 * 4544


@pytest.mark.parametrize(
    ("values", "name", "expected"),
    [
        ({"n_layer": 12}, "num_hidden_layers", 12),
        ({"num_layers": 28}, "num_hidden_layers", 28),
        ({"n_embd": 768}, "hidden_size", 768),
        ({"multi_query_group_num": 2}, "num_key_value_heads", 2),
        ({"padded_vocab_size": 65024}, "vocab_size", 65024),
        ({"hidden_size": 4096.0}, "hidden_size", 4096),
    ],
)
def test_other_names_of_the_same_size(values, name, expected):
    assert config(values).size(name) == expected


@pytest.mark.parametrize("value", ["4096", [4096], {"value": 4096}, 4096.5, True, -1])
def test_an_odd_type_names_the_key_and_the_value(value):
    with pytest.raises(InputError, match="hidden_size should be a whole number, not") as caught:
        config({**published.LLAMA_3_1_8B, "hidden_size": value}).size("hidden_size")
    assert caught.value.code == "model-unreadable"


def test_no_heads_for_keys_and_values_are_no_answer():
    config = ModelConfig({"num_attention_heads": 16, "num_key_value_heads": 0}, "here")
    with pytest.raises(InputError, match="num_key_value_heads should be a whole number, not 0"):
        _ = config.kv_heads


def test_a_missing_size_names_the_key():
    with pytest.raises(InputError, match=r"config\.json in here has no vocab_size"):
        config({"model_type": "unheard-of"}).size("vocab_size")


@pytest.mark.parametrize("value", [None, [], "LlamaForCausalLM", [None], {}])
def test_architectures_of_any_type(value):
    found = config({"architectures": value}).architecture
    assert found == ("LlamaForCausalLM" if isinstance(value, str) else "unknown")


def test_a_byte_order_mark_is_no_obstacle(tmp_path):
    (tmp_path / "config.json").write_bytes(b'\xef\xbb\xbf{"hidden_size": 64}')
    assert read_config(tmp_path).size("hidden_size") == 64


@pytest.mark.parametrize("content", [b"{", b"\xff\xfe{", b"[" * 100_000, b""])
def test_a_broken_file_is_told(tmp_path, content):
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(InputError, match=r"config\.json can't be read") as caught:
        read_config(tmp_path)
    assert caught.value.code == "model-unreadable"


def test_json_of_another_kind_has_no_sizes(tmp_path):
    (tmp_path / "config.json").write_text("[1, 2]")
    with pytest.raises(InputError, match="has no hidden_size"):
        read_config(tmp_path).size("hidden_size")


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
