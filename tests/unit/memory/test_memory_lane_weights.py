"""A lane's weights as its engine holds them, which is not always what the files take."""

import json
import struct
from dataclasses import replace

import pytest

from core.domain.specs import EngineKind, EngineSettings, LaneSpec, ModelSpec, Weights
from core.memory.lane_weights import lane_weight_bytes, loaded_weight_bytes
from core.models.quantization import Quantization
from core.models.weight_files import WeightFacts

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
