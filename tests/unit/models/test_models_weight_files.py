"""Which weight files count, what their headers say, and how and for whom the weights are quantised."""

import json
import struct

import pytest

from core.errors import InputError
from core.memory.prediction import weight_bytes_awq
from core.models.model_config import ModelConfig
from core.models.weight_files import (
    Quantization,
    read_gguf_header,
    read_quantization,
    safetensors_files,
    turbomind_refusal,
    weight_facts,
)

AUTOAWQ = {"zero_point": True, "q_group_size": 128, "w_bit": 4, "version": "GEMM"}
AUTOGPTQ = {"bits": 4, "group_size": 128, "desc_act": True, "sym": True, "damp_percent": 0.01}
MODELOPT = {"producer": {"name": "modelopt"}, "quantization": {"quant_algo": "NVFP4", "group_size": 16}}
COMPRESSED = {
    "quant_method": "compressed-tensors",
    "format": "pack-quantized",
    "config_groups": {"group_0": {"weights": {"num_bits": 4, "type": "int", "group_size": 128}}},
}

GIB = 2**30
BYTES = {"F16": 2, "I32": 4, "U8": 1, "F8_E4M3": 1}


def read(values, folder=None, tensors=None):
    return read_quantization(folder, ModelConfig(values, "here"), tensors or {})


def packed(**shapes):
    return {f"model.layers.0.q_proj.{name}": {"shape": shape} for name, shape in shapes.items()}


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, None),
        ({"quantization_config": {}}, None),
        ({"quantization_config": "AWQ"}, Quantization(method="awq")),
        (
            {"quantization_config": {"quant_method": "awq", "bits": 4, "group_size": 128, "version": "gemm"}},
            Quantization(method="awq", bits=4, group_size=128, version="gemm"),
        ),
        (
            {"text_config": {"quantization_config": {"quant_method": "gptq", "bits": 4, "desc_act": True}}},
            Quantization(method="gptq", bits=4, desc_act=True),
        ),
        (
            {"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}},
            Quantization(method="bitsandbytes", bits=4),
        ),
        (
            {"quantization_config": COMPRESSED},
            Quantization(method="compressed-tensors", bits=4, group_size=128, layout="pack-quantized"),
        ),
        ({"compression_config": {"quant_method": "fp8"}}, Quantization(method="fp8")),
    ],
)
def test_in_config_json(values, expected):
    assert read(values) == expected


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        (
            "quant_config.json",
            AUTOAWQ,
            Quantization(method="awq", bits=4, group_size=128, version="GEMM"),
        ),
        (
            "quantize_config.json",
            AUTOGPTQ,
            Quantization(method="gptq", bits=4, group_size=128, desc_act=True),
        ),
        ("hf_quant_config.json", MODELOPT, Quantization(method="modelopt-nvfp4", bits=4, group_size=16)),
        ("hf_quant_config.json", {"quantization": {"quant_algo": None}}, None),
    ],
)
def test_in_a_file_of_its_own(tmp_path, name, content, expected):
    (tmp_path / name).write_text(json.dumps(content))
    assert read({}, tmp_path) == expected


@pytest.mark.parametrize(
    ("tensors", "expected"),
    [
        (
            packed(qweight=[4096, 512], qzeros=[32, 512], scales=[32, 4096]),
            Quantization(method="awq", bits=4, group_size=128),
        ),
        (
            packed(qweight=[512, 4096], qzeros=[32, 512], scales=[32, 4096]),
            Quantization(method="gptq", bits=4, group_size=128),
        ),
        (
            packed(qweight=[512, 4096], g_idx=[4096], scales=[64, 4096]),
            Quantization(method="gptq", bits=4, group_size=64),
        ),
        (packed(weight=[4096, 4096]), None),
    ],
)
def test_only_in_the_tensors(tensors, expected):
    assert read({}, tensors=tensors) == expected


@pytest.mark.parametrize(
    "taken",
    [
        Quantization(method="awq", bits=4, group_size=128, version="gemm"),
        Quantization(method="awq"),
        Quantization(method="gptq", bits=4, group_size=128),
        Quantization(method="fp8", bits=8),
        Quantization(method="mxfp4"),
        Quantization(method="compressed-tensors", bits=4, group_size=32, layout="pack-quantized"),
    ],
)
def test_what_turbomind_takes(taken):
    assert turbomind_refusal(taken) is None


@pytest.mark.parametrize(
    ("refused", "said"),
    [
        (Quantization(method="awq", version="gemv"), "layout GEMM, not gemv"),
        (Quantization(method="awq", group_size=64), "groups of 64. TurboMind supports groups of 128"),
        (Quantization(method="awq", bits=8), "only with 4 bits, not 8"),
        (Quantization(method="gptq", desc_act=True), "desc_act"),
        (Quantization(method="gptq", symmetric=False), "symmetric"),
        (Quantization(method="bitsandbytes", bits=4), "bitsandbytes"),
        (Quantization(method="modelopt-nvfp4", bits=4), "modelopt-nvfp4"),
        (Quantization(method="smooth_quant"), "smooth_quant"),
        (Quantization(method="compressed-tensors", layout="float-quantized"), "pack-quantized, not float"),
        (Quantization(method="compressed-tensors", group_size=64), "groups of 32, 128"),
    ],
)
def test_what_turbomind_refuses_and_what_to_do(refused, said):
    problem = turbomind_refusal(refused)

    assert said in problem.message
    assert problem.hint


def headers(**tensors):
    """Entries by name, `dtype` and `shape` given; dots are written as two underscores."""
    found = {}
    for name, (dtype, shape) in tensors.items():
        size = BYTES[dtype]
        for side in shape:
            size *= side
        found[name.replace("__", ".")] = {"dtype": dtype, "shape": shape, "data_offsets": [0, size]}
    return found


def facts(tensors, quantization=None, folder=None):
    return weight_facts(folder, tensors, quantization)


def touch(folder, *names):
    for name in names:
        (folder / name).touch()


class TestFiles:
    def test_the_index_names_them(self, tmp_path):
        touch(tmp_path, "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
        touch(tmp_path, "consolidated.safetensors")
        weight_map = {"a": "model-00002-of-00002.safetensors", "b": "model-00001-of-00002.safetensors"}
        (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
        names = [file.name for file in safetensors_files(tmp_path)]
        assert names == sorted(weight_map.values())

    def test_without_an_index_those_called_model(self, tmp_path):
        touch(tmp_path, "model.safetensors", "consolidated.safetensors", "adapter_model.safetensors")
        assert [file.name for file in safetensors_files(tmp_path)] == ["model.safetensors"]

    def test_a_single_file_of_another_name(self, tmp_path):
        touch(tmp_path, "diffusion.safetensors", "adapter_model.safetensors")
        assert [file.name for file in safetensors_files(tmp_path)] == ["diffusion.safetensors"]
        touch(tmp_path, "consolidated.safetensors")
        assert safetensors_files(tmp_path) == []

    @pytest.mark.parametrize("content", ["{}", '{"weight_map": ["a"]}'])
    def test_an_index_that_names_none(self, tmp_path, content):
        (tmp_path / "model.safetensors.index.json").write_text(content)
        with pytest.raises(InputError, match="0 of 0 weight files"):
            safetensors_files(tmp_path)

    def test_pickled_weights_have_a_size_and_no_parameters(self, tmp_path):
        (tmp_path / "pytorch_model.bin").write_bytes(bytes(100))
        assert (facts({}, folder=tmp_path).size_bytes, facts({}, folder=tmp_path).parameters) == (100, None)


def internvl2_26b():
    """All matrices of InternVL2-26B: InternViT-6B, a projector, and InternLM2-20B."""
    tensors = {"vision_model__embeddings__patch_embedding__weight": ("F16", [3200, 3, 14, 14])}
    for layer in range(45):
        prefix = f"vision_model__encoder__layers__{layer}__"
        tensors |= {
            f"{prefix}attn__qkv__weight": ("F16", [9600, 3200]),
            f"{prefix}attn__proj__weight": ("F16", [3200, 3200]),
            f"{prefix}mlp__fc1__weight": ("F16", [12_800, 3200]),
            f"{prefix}mlp__fc2__weight": ("F16", [3200, 12_800]),
            f"{prefix}norm1__weight": ("F16", [3200]),
        }
    for layer in range(48):
        prefix = f"language_model__model__layers__{layer}__"
        tensors |= {
            f"{prefix}attention__wqkv__weight": ("F16", [8192, 6144]),
            f"{prefix}attention__wo__weight": ("F16", [6144, 6144]),
            f"{prefix}feed_forward__w1__weight": ("F16", [16_384, 6144]),
            f"{prefix}feed_forward__w3__weight": ("F16", [16_384, 6144]),
            f"{prefix}feed_forward__w2__weight": ("F16", [6144, 16_384]),
            f"{prefix}ffn_norm__weight": ("F16", [6144]),
        }
    return headers(
        **tensors,
        language_model__model__tok_embeddings__weight=("F16", [92_553, 6144]),
        language_model__output__weight=("F16", [92_553, 6144]),
        mlp1__1__weight=("F16", [6144, 12_800]),
        mlp1__3__weight=("F16", [6144, 6144]),
    )


def test_awq_leaves_the_vision_tower_alone():
    """21.7 GiB on disk, where zero points take 4 bits; TurboMind keeps them in 16."""
    found = facts(internvl2_26b())

    assert found.parameters == pytest.approx(25.5e9, rel=0.01)
    awq_bytes = weight_bytes_awq(found.parameters, found.linear_parameters)
    assert awq_bytes == pytest.approx(21.9 * GIB, rel=0.002)


@pytest.mark.parametrize(
    ("name", "shape", "is_linear"),
    [
        ("model.layers.3.self_attn.q_proj.weight", [8, 8], True),
        ("model.language_model.layers.3.mlp.down_proj.weight", [8, 8], True),
        ("language_model.model.layers.3.mlp.down_proj.weight", [8, 8], True),
        ("transformer.h.3.attn.c_attn.weight", [8, 8], True),
        ("transformer.encoder.layers.3.mlp.dense_h_to_4h.weight", [8, 8], True),
        ("model.layers.3.mlp.experts.7.gate_proj.weight", [8, 8], True),
        ("model.layers.3.mlp.experts.gate_up_proj", [4, 8, 8], True),
        ("model.layers.3.mlp.gate.weight", [8, 8], False),
        ("model.layers.3.block_sparse_moe.gate.weight", [8, 8], False),
        ("model.layers.3.mlp.router.weight", [8, 8], False),
        ("model.layers.3.input_layernorm.weight", [8], False),
        ("model.layers.3.self_attn.q_proj.bias", [8], False),
        ("model.embed_tokens.weight", [8, 8], False),
        ("lm_head.weight", [8, 8], False),
        ("model.visual.blocks.3.attn.qkv.weight", [8, 8], False),
        ("visual.blocks.3.mlp.fc1.weight", [8, 8], False),
        ("vision_tower.vision_model.encoder.layers.3.mlp.fc1.weight", [8, 8], False),
        ("model.vision_tower.encoder.layers.3.mlp.fc1.weight", [8, 8], False),
        ("audio_tower.layers.3.fc1.weight", [8, 8], False),
        ("multi_modal_projector.linear_1.weight", [8, 8], False),
        ("mtp.layers.0.mlp.up_proj.weight", [8, 8], False),
    ],
)
def test_linear_layers_of_the_language_model(name, shape, is_linear):
    found = facts(headers(**{name.replace(".", "__"): ("F16", shape)}))
    assert found.linear_parameters == (found.parameters if is_linear else 0)


LAYER = "model__layers__0__q__"


@pytest.mark.parametrize(
    ("tensors", "quantization", "parameters"),
    [
        (
            {"qweight": ("I32", [256, 32]), "qzeros": ("I32", [2, 32]), "scales": ("F16", [2, 256])},
            Quantization(method="awq", bits=4),
            256 * 256,
        ),
        (
            {"qweight": ("I32", [64, 256]), "g_idx": ("I32", [256]), "scales": ("F16", [2, 256])},
            Quantization(method="gptq", bits=8),
            256 * 256,
        ),
        (
            {
                "weight_packed": ("I32", [256, 32]),
                "weight_scale": ("F16", [256, 2]),
                "weight_shape": ("I32", [2]),
            },
            Quantization(method="compressed-tensors", bits=4),
            256 * 256,
        ),
        (
            {
                "weight": ("U8", [32_768, 1]),
                "weight__absmax": ("U8", [1024]),
                "weight__quant_state__bitsandbytes__nf4": ("U8", [80]),
            },
            Quantization(method="bitsandbytes", bits=4),
            256 * 256,
        ),
        (
            {"weight": ("F8_E4M3", [256, 256]), "weight_scale_inv": ("F16", [2, 2])},
            Quantization(method="fp8"),
            256 * 256,
        ),
    ],
)
def test_packed_weights_count_as_the_values_they_hold(tensors, quantization, parameters):
    found = facts(headers(**{LAYER + name: entry for name, entry in tensors.items()}), quantization)

    assert (found.parameters, found.linear_parameters) == (parameters, parameters)
    assert found.quantized == quantization


def test_mxfp4_experts():
    tensors = headers(
        model__layers__0__mlp__experts__gate_up_proj_blocks=("U8", [32, 64, 4, 16]),
        model__layers__0__mlp__experts__gate_up_proj_scales=("U8", [32, 64, 4]),
        model__layers__0__mlp__experts__gate_up_proj_bias=("F16", [32, 64]),
    )
    found = facts(tensors, Quantization(method="mxfp4"))
    assert found.linear_parameters == 32 * 64 * 4 * 16 * 2
    assert found.parameters == found.linear_parameters + 32 * 64


def text(value):
    data = value.encode()
    return struct.pack("<Q", len(data)) + data


def header(version=3):
    fields = (
        text("general.architecture") + struct.pack("<I", 8) + text("llama"),
        text("llama.block_count") + struct.pack("<II", 4, 30),
        text("tokens") + struct.pack("<IIQ", 9, 8, 2) + text("Ġthe") + text("法国"),
        text("scores") + struct.pack("<IIQ2f", 9, 6, 2, 0.5, -1.0),
        text("general.alignment") + struct.pack("<II", 4, 64),
    )
    tensors = (
        text("a") + struct.pack("<IQQIQ", 2, 32, 4, 3, 0),
        text("b") + struct.pack("<IQIQ", 1, 5, 0, 128),
    )
    start = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(fields))
    return start + b"".join(fields + tensors)


def test_metadata_and_tensors(tmp_path):
    path = tmp_path / "x.gguf"
    path.write_bytes(header())
    found = read_gguf_header(path)

    assert found.metadata == {
        "general.architecture": "llama",
        "llama.block_count": 30,
        "tokens": ["Ġthe", "法国"],
        "scores": [0.5, -1.0],
        "general.alignment": 64,
    }
    assert found.tensors["a"].shape == (4, 32)
    assert found.parameters == 4 * 32 + 5
    begin = -(-len(header()) // 64) * 64
    assert [tensor.offset for tensor in found.tensors.values()] == [begin, begin + 128]


@pytest.mark.parametrize(
    "content", [b"", b"GGML" + bytes(40), header(version=1), header()[:60], header()[:-9]]
)
def test_anything_else_is_refused(tmp_path, content):
    path = tmp_path / "x.gguf"
    path.write_bytes(content)
    with pytest.raises(InputError, match="can't be read as a GGUF file") as caught:
        read_gguf_header(path)
    assert caught.value.code == "model-unreadable"
