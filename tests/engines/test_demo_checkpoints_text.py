"""Zero-padding changes sizes, not what a model computes: on a tiny random Llama and on the demo weights.

The bound in float32 is 1e-4 of the largest logit: padding changes nothing but the order in which floats are
summed.
"""

from functools import cache
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from core.config import demo_model
from core.engines.launch import serve_transformers
from core.models import demo_checkpoints, demo_models
from core.models.demo_checkpoints import GgufFile
from core.settings import load_settings

MESSAGES = [
    {"role": "system", "content": "You know numbers such as 3.14 and 1,000."},
    {
        "role": "user",
        "content": "What is the capital of France? 法国的首都是哪里?\n\n  def f(x):\n\treturn x",
    },
    {"role": "assistant", "content": "Paris 🗼."},
    {"role": "user", "content": "And of Spain?"},
]


@pytest.fixture
def tiny():
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=96,
            hidden_size=96,
            intermediate_size=160,
            num_hidden_layers=2,
            num_attention_heads=6,
            num_key_value_heads=2,
            head_dim=32,
            rms_norm_eps=1e-2,
            initializer_range=0.3,
            tie_word_embeddings=True,
            eos_token_id=2,
        )
    ).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith("norm.weight"):
                weight.uniform_(0.5, 1.5)
    return model


def config_of(model):
    return {**model.config.to_dict(), "rope_parameters": dict(model.config.rope_parameters)}


def weights_of(model):
    return {name: tensor.numpy() for name, tensor in model.state_dict().items()}


def logits(model, ids):
    with torch.inference_mode():
        return model(ids).logits.float()


def store(model, folder):
    config = demo_checkpoints.padded_config(config_of(model))
    config["dtype"] = np.dtype(demo_checkpoints.STORED_DTYPE).name
    weights = demo_checkpoints.padded_weights(weights_of(model), config_of(model), config)
    demo_checkpoints.write_padded(weights, config, folder)


def loaded(config, weights):
    model = LlamaForCausalLM(LlamaConfig(**config)).float().eval()
    model.load_state_dict({name: torch.from_numpy(values) for name, values in weights.items()})
    return model


def test_sizes_become_multiples_of_128_with_as_many_queries_per_kv_head(tiny):
    padded = demo_checkpoints.padded_config(config_of(tiny))
    assert (padded["num_key_value_heads"], padded["num_attention_heads"], padded["head_dim"]) == (4, 12, 32)
    assert (padded["hidden_size"], padded["intermediate_size"]) == (384, 256)
    assert padded["rms_norm_eps"] == pytest.approx(1e-2 * 96 / 384)
    assert not padded["tie_word_embeddings"]


def test_the_demo_models_sizes():
    sizes = {"hidden_size": 576, "intermediate_size": 1536, "num_attention_heads": 9, "rms_norm_eps": 1e-5}
    padded = demo_checkpoints.padded_config({**sizes, "num_key_value_heads": 3, "head_dim": 64})
    assert (padded["hidden_size"], padded["intermediate_size"]) == (768, 1536)
    assert (padded["num_attention_heads"], padded["num_key_value_heads"]) == (12, 4)


def test_a_padded_and_stored_model_has_the_logits_of_the_original(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(demo_checkpoints, "STORED_DTYPE", np.float32)
    store(tiny, tmp_path)

    padded = AutoModelForCausalLM.from_pretrained(tmp_path)
    ids = torch.randint(0, 96, (2, 40))
    expected = logits(tiny, ids)
    assert (logits(padded, ids) - expected).abs().max() < 1e-4 * expected.abs().max()


def test_without_the_norms_share_the_logits_differ(tiny):
    """The test above can fail: the rescaled norms and epsilon are what makes both equal."""
    config = demo_checkpoints.padded_config(config_of(tiny))
    weights = demo_checkpoints.padded_weights(weights_of(tiny), config_of(tiny), config)
    padded = loaded({**config, "rms_norm_eps": tiny.config.rms_norm_eps}, weights)
    ids = torch.randint(0, 96, (2, 40))
    assert (logits(padded, ids) - logits(tiny, ids)).abs().max() > 1e-3


def test_the_stored_checkpoint_says_what_engines_ask_for(tiny, tmp_path):
    store(tiny, tmp_path)
    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert model.config.architectures == ["LlamaForCausalLM"]
    assert model.dtype == torch.float16
    assert model.generation_config.eos_token_id == 2
    assert not model.generation_config.do_sample


def test_values_beyond_float16_are_refused(tiny, tmp_path):
    config = demo_checkpoints.padded_config(config_of(tiny))
    weights = demo_checkpoints.padded_weights(weights_of(tiny), config_of(tiny), config)
    weights["lm_head.weight"][0, 0] = 1e6
    with pytest.raises(SystemExit, match=r"lm_head\.weight"):
        demo_checkpoints.write_padded(weights, config, tmp_path)


@pytest.fixture(scope="module")
def real():
    settings = load_settings()
    demo_models.prepare_text(settings, lambda line: None)
    model = demo_model(settings)
    path = Path(model.gguf)
    return Path(model.checkpoint), {
        "pretrained_model_name_or_path": str(path.parent),
        "gguf_file": path.name,
    }


def test_both_forms_of_the_demo_weights_get_the_same_prompt_tokens(real):
    folder, file = real
    of_checkpoint, of_gguf = AutoTokenizer.from_pretrained(folder), AutoTokenizer.from_pretrained(**file)
    assert of_checkpoint.chat_template == of_gguf.chat_template
    for length in (1, 2, 4):
        ids = [
            tokenizer.apply_chat_template(MESSAGES[:length], add_generation_prompt=True)["input_ids"]
            for tokenizer in (of_checkpoint, of_gguf)
        ]
        assert ids[0] == ids[1]
    assert of_checkpoint.eos_token_id == of_gguf.eos_token_id == 2


@pytest.fixture
def quick_reading(monkeypatch):
    """Without the vocabulary, which takes transformers most of the time and a model's weights don't need."""
    monkeypatch.setattr(gguf, "get_tensor_name_map", cache(gguf.get_tensor_name_map))
    monkeypatch.setattr(gguf.GGUFReader, "_get_field_parts", gguf.GGUFReader._get_field_parts)
    serve_transformers.skip_vocabularies()


def test_the_demo_checkpoint_has_the_logits_of_the_gguf_file(real, quick_reading):
    """In float32 up to summation order; as stored up to float16's rounding of weights (0.05 of 38 seen)."""
    folder, of_gguf = real
    original = AutoModelForCausalLM.from_pretrained(**of_gguf, dtype=torch.float32)
    ids = AutoTokenizer.from_pretrained(folder).apply_chat_template(MESSAGES, return_tensors="pt")[
        "input_ids"
    ]
    expected = logits(original, ids)

    file = GgufFile(folder / "gguf" / of_gguf["gguf_file"])
    config = demo_checkpoints.read_config(file.metadata)
    padded_config = demo_checkpoints.padded_config(config)
    weights = demo_checkpoints.padded_weights(
        demo_checkpoints.read_weights(file, config), config, padded_config
    )
    padded = loaded({**padded_config, "dtype": "float32"}, weights)
    assert (logits(padded, ids) - expected).abs().max() < 2e-4

    stored = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    found = logits(stored, ids)
    assert (found - expected).abs().max() < 0.15
