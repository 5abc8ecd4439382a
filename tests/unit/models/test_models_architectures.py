"""Which models keep a plain KV cache, and what the installed LMDeploy's own tables say."""

import sys

import pytest

from core.errors import InputError
from core.models import architectures
from core.models.architectures import AttentionKind, attention_of, lmdeploy_support
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


@pytest.fixture
def package(tmp_path, monkeypatch):
    """An `lmdeploy` of the given files, on the path of this interpreter."""

    def write(**files):
        folder = tmp_path / "lmdeploy"
        texts = {
            "__init__.py": "raise SystemExit('imported')",
            "version.py": "__version__ = '9.9.0'\n",
            "turbomind/supported_models.py": "SUPPORTED_ARCHS = dict(LlamaForCausalLM='llama')\n",
            "pytorch/models/module_map.py": "MODULE_MAP = dict()\n"
            "MODULE_MAP.update({'PhiForCausalLM': f'{X}.p'})\n",
            **{name.replace("__", "/") + ".py": text for name, text in files.items()},
        }
        for name, text in texts.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        monkeypatch.setattr(architectures, "_own_folder", lambda: folder)
        return folder

    return write


def test_both_tables(package):
    package()
    support = lmdeploy_support()

    assert support.version == "9.9.0"
    assert support.turbomind == {"LlamaForCausalLM"}
    assert support.pytorch == {"PhiForCausalLM"}


def test_tables_in_other_forms(package):
    package(
        turbomind__supported_models="SUPPORTED_ARCHS: dict[str, str] = {'A': 'a', 'B': 'b'}\n",
        pytorch__models__module_map="MODULE_MAP = {'C': 'c'}\nOTHER = {}\nOTHER.update({'D': 'd'})\n",
    )
    support = lmdeploy_support()
    assert (support.turbomind, support.pytorch) == ({"A", "B"}, {"C"})


@pytest.mark.parametrize("text", ["def supported(): ...\n", "SUPPORTED_ARCHS = load()\n", "not python ("])
def test_a_version_with_other_tables_leaves_it_unknown(package, text):
    package(turbomind__supported_models=text)
    assert lmdeploy_support() is None


def test_without_lmdeploy_nothing_is_known(monkeypatch):
    monkeypatch.setattr(architectures, "_own_folder", lambda: None)
    assert lmdeploy_support() is None


def test_another_interpreter_is_asked_where_its_own_is(package, tmp_path):
    folder = package()
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\necho {folder}/__init__.py\n")
    python.chmod(0o755)
    assert lmdeploy_support(str(python)).version == "9.9.0"
    assert lmdeploy_support(str(tmp_path / "missing")) is None


@pytest.mark.skipif(lmdeploy_support() is None, reason="LMDeploy is not installed")
def test_the_installed_one_has_what_lanes_are_made_of():
    support = lmdeploy_support(sys.executable)
    assert {
        "LlamaForCausalLM",
        "Qwen3_5MoeForConditionalGeneration",
        "InternVLChatModel",
    } <= support.turbomind
    assert {"LlavaForConditionalGeneration", "InternS1ForConditionalGeneration"} <= support.pytorch
    assert "LlavaForConditionalGeneration" not in support.turbomind
