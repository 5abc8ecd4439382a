import json
import struct
import sys
from pathlib import Path

import pytest

from core.errors import InputError
from core.models import checkpoint as checkpoint_module
from core.models.checkpoint import (
    checkpoint_folder,
    count_parameters,
    lmdeploy_support,
    read_checkpoint,
    read_sizes,
    read_weights,
)
from core.models.model_config import AttentionKind, ModelConfig
from core.models.weight_files import Quantization, read_safetensors_header
from tests.unit.models import model_configs as published

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "num_hidden_layers": 2,
    "hidden_size": 256,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 512,
    "vocab_size": 1000,
    "tie_word_embeddings": False,
    "torch_dtype": "float16",
    "max_position_embeddings": 2048,
}
WIDTH = {"F16": 2, "I32": 4}


def write_safetensors(file: Path, tensors: dict[str, tuple[str, list[int]]]) -> None:
    header, offset = {"__metadata__": {"format": "pt"}}, 0
    for name, (dtype, shape) in tensors.items():
        size = WIDTH[dtype]
        for side in shape:
            size *= side
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(text)) + text + bytes(offset))


def checkpoint(folder: Path, **changes: object) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    config = {key: value for key, value in {**CONFIG, **changes}.items() if value is not None}
    (folder / "config.json").write_text(json.dumps(config))
    write_safetensors(folder / "model.safetensors", {"a.weight": ("F16", [10, 20]), "b.bias": ("F16", [7])})
    return folder


def test_the_sizes_of_a_llama_checkpoint(tmp_path: Path) -> None:
    facts = read_checkpoint(checkpoint(tmp_path))

    assert (facts.architecture, facts.layers, facts.heads, facts.kv_heads) == (
        "LlamaForCausalLM",
        2,
        4,
        2,
    )
    assert facts.head_dim == 64
    assert facts.dtype == "float16"
    assert facts.parameters == 207
    assert facts.weight_bytes == 414
    assert facts.quantization is None
    assert facts.group_size is None
    assert facts.linear_in_features == (256, 512)
    assert facts.embedding_parameters == 2 * 1000 * 256
    assert facts.attention.kind is AttentionKind.PLAIN
    assert not facts.counted


def test_awq_weights_count_as_the_values_they_pack(tmp_path: Path) -> None:
    quantization = {"quant_method": "awq", "bits": 4, "group_size": 128}
    folder = checkpoint(tmp_path, quantization_config=quantization)
    write_safetensors(
        folder / "model.safetensors",
        {
            "q.qweight": ("I32", [256, 32]),
            "q.qzeros": ("I32", [2, 32]),
            "q.scales": ("F16", [2, 256]),
        },
    )

    facts = read_checkpoint(folder)

    assert (facts.quantization, facts.group_size) == ("awq", 128)
    assert facts.parameters == 256 * 256
    assert facts.weight_bytes == 256 * 32 * 4 + 2 * 32 * 4 + 2 * 256 * 2


def test_the_text_model_of_a_vision_checkpoint_counts(tmp_path: Path) -> None:
    text = {key: CONFIG[key] for key in CONFIG if key not in ("architectures", "model_type")}
    folder = checkpoint(tmp_path)
    (folder / "config.json").write_text(
        json.dumps(
            {
                "architectures": ["LlavaForConditionalGeneration"],
                "model_type": "llava",
                "text_config": {**text, "head_dim": 32},
            }
        )
    )

    facts = read_checkpoint(folder)

    assert facts.architecture == "LlavaForConditionalGeneration"
    assert facts.head_dim == 32
    assert facts.linear_in_features == (128, 256, 512)


@pytest.mark.parametrize(
    ("changes", "name", "value"),
    [
        ({"num_experts": 64, "moe_intermediate_size": 128}, "experts", 64),
        ({"num_experts": 64, "moe_intermediate_size": 128}, "expert_intermediate_size", 128),
        ({"num_key_value_heads": None}, "kv_heads", 4),
        ({"torch_dtype": None, "dtype": "bfloat16"}, "dtype", "bfloat16"),
    ],
)
def test_what_a_config_says_about_heads_and_experts(
    tmp_path: Path, changes: dict[str, object], name: str, value: object
) -> None:
    facts = read_checkpoint(checkpoint(tmp_path, **changes))

    assert getattr(facts, name) == value


def test_a_folder_without_the_named_sizes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has no hidden_size") as caught:
        read_checkpoint(checkpoint(tmp_path, hidden_size=None, model_type="unheard-of"))
    assert caught.value.code == "model-unreadable"


def test_a_folder_without_config_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        read_checkpoint(tmp_path)
    assert caught.value.code == "model-unreadable"


def test_missing_and_cut_off_weights_are_told(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "shards")
    index = {"weight_map": {"a": "model.safetensors", "b": "model-2.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(InputError, match="1 of 2 weight files are missing"):
        read_checkpoint(folder)

    cut = checkpoint(tmp_path / "cut") / "model.safetensors"
    cut.write_bytes(cut.read_bytes()[:-1])
    with pytest.raises(InputError, match="shorter than its header"):
        read_safetensors_header(cut)

    empty = checkpoint(tmp_path / "empty")
    (empty / "model.safetensors").unlink()
    with pytest.raises(InputError, match="no weights"):
        read_checkpoint(empty)


def test_a_hub_id_is_found_in_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(InputError) as caught:
        checkpoint_folder("org/name")
    assert caught.value.code == "model-not-here"

    repository = tmp_path / "models--org--name"
    snapshot = repository / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("abc\n")
    assert checkpoint_folder("org/name") == snapshot


def test_weights_are_read_without_any_size(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path, hidden_size=None, model_type="unheard-of")

    assert read_weights(folder).size_bytes == 414
    assert read_weights(folder).parameters == 207


def test_quantisation_that_only_a_file_beside_tells(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path)
    (folder / "quant_config.json").write_text(json.dumps({"w_bit": 4, "q_group_size": 64, "version": "GEMV"}))

    facts = read_checkpoint(folder)

    assert (facts.quantization, facts.group_size) == ("awq", 64)
    assert facts.quantized is not None
    assert facts.quantized.version == "GEMV"


class TestConfigAlone:
    def test_a_folder_and_a_file(self, tmp_path: Path) -> None:
        file = tmp_path / "config.json"
        file.write_text(json.dumps(published.LLAMA_3_1_8B))

        for path in (tmp_path, file):
            facts = read_sizes(path)
            assert facts.counted
            assert facts.parameters == pytest.approx(8.03e9, rel=0.001)
            assert facts.weight_bytes == 2 * facts.parameters

    def test_weight_files_are_preferred(self, tmp_path: Path) -> None:
        facts = read_sizes(checkpoint(tmp_path))
        assert (facts.counted, facts.parameters) == (False, 207)

    def test_quantised_weights_count_with_their_bits(self, tmp_path: Path) -> None:
        quantization = {"quant_method": "awq", "bits": 4, "group_size": 128, "version": "gemm"}
        config = {**published.LLAMA_3_1_8B, "quantization_config": quantization}
        (tmp_path / "config.json").write_text(json.dumps(config))

        facts = read_sizes(tmp_path)

        assert facts.quantized == Quantization(method="awq", bits=4, group_size=128, version="gemm")
        # 5.73 GB is what the hub's AWQ form of Llama-3.1-8B takes.
        assert facts.weight_bytes == pytest.approx(5.73e9, rel=0.02)

    def test_broken_files_are_not_passed_over(self, tmp_path: Path) -> None:
        folder = checkpoint(tmp_path)
        weights = folder / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:-1])
        with pytest.raises(InputError, match="shorter than its header"):
            read_sizes(folder)


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("LLAMA_3_1_8B", 8.03e9),
        ("QWEN2_5_7B", 7.62e9),
        ("MISTRAL_7B_V0_1", 7.24e9),
        ("MIXTRAL_8X7B", 46.7e9),
        ("QWEN3_30B_A3B", 30.5e9),
        ("LLAVA_1_5_7B", 7.06e9),
        ("INTERNVL2_26B", 25.5e9),
    ],
)
def test_published_sizes(name, parameters):
    assert count_parameters(ModelConfig(getattr(published, name), name)).total == pytest.approx(
        parameters, rel=0.01
    )


def test_linear_layers_are_those_of_the_language_model():
    count = count_parameters(ModelConfig(published.INTERNVL2_26B, "x"))
    assert count.linear == 48 * (8192 * 6144 + 6144 * 6144 + 3 * 16_384 * 6144)
    assert count.embeddings == 2 * 92_553 * 6144


def test_dense_layers_before_a_mixture():
    count = count_parameters(ModelConfig(published.DEEPSEEK_V2_LITE, "x"))
    experts = 26 * 3 * 2048 * (64 * 1408 + 2 * 1408)
    attention = 27 * 2 * (16 + 16) * 128 * 2048
    assert count.linear == experts + 3 * 2048 * 10_944 + attention


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
        monkeypatch.setattr(checkpoint_module, "_own_folder", lambda: folder)
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
    monkeypatch.setattr(checkpoint_module, "_own_folder", lambda: None)
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
