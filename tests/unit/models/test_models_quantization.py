"""Where quantisation is told, and what TurboMind takes."""

import json

import pytest

from core.models.model_config import ModelConfig
from core.models.quantization import Quantization, read_quantization, turbomind_refusal

AUTOAWQ = {"zero_point": True, "q_group_size": 128, "w_bit": 4, "version": "GEMM"}
AUTOGPTQ = {"bits": 4, "group_size": 128, "desc_act": True, "sym": True, "damp_percent": 0.01}
MODELOPT = {"producer": {"name": "modelopt"}, "quantization": {"quant_algo": "NVFP4", "group_size": 16}}
COMPRESSED = {
    "quant_method": "compressed-tensors",
    "format": "pack-quantized",
    "config_groups": {"group_0": {"weights": {"num_bits": 4, "type": "int", "group_size": 128}}},
}


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
