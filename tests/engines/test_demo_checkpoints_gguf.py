"""Reading GGUF files, against those that the package `gguf` writes."""

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType
from gguf.quants import dequantize, quantize

from core.errors import InputError
from core.models.demo_checkpoints import GgufFile

VALUES = np.random.default_rng(0).normal(size=(6, 64)).astype(np.float32)


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "small.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(30)
    writer.add_rope_freq_base(1e5)
    writer.add_bool("flag", True)
    writer.add_array("words", ["Ġthe", "", "法国"])
    writer.add_array("numbers", [3, 1, -2])
    writer.add_tensor("exact", VALUES)
    writer.add_tensor("half", VALUES.astype(np.float16))
    for kind in (GGMLQuantizationType.Q4_1, GGMLQuantizationType.Q8_0):
        writer.add_tensor(kind.name, quantize(VALUES, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_metadata(path):
    found = GgufFile(path).metadata

    assert found["general.architecture"] == "llama"
    assert found["llama.block_count"] == 30
    assert found["llama.rope.freq_base"] == 1e5
    assert found["flag"] is True
    assert found["words"] == ["Ġthe", "", "法国"]
    assert found["numbers"] == [3, 1, -2]


def test_tensors_come_dequantised_in_their_shape(path):
    file = GgufFile(path)

    assert set(file.names) == {"exact", "half", "Q4_1", "Q8_0"}
    np.testing.assert_array_equal(file.tensor("exact"), VALUES)
    np.testing.assert_array_equal(file.tensor("half"), VALUES.astype(np.float16).astype(np.float32))
    for kind in (GGMLQuantizationType.Q4_1, GGMLQuantizationType.Q8_0):
        np.testing.assert_array_equal(file.tensor(kind.name), dequantize(quantize(VALUES, kind), kind))


def test_another_file_is_refused(tmp_path):
    other = tmp_path / "other.gguf"
    other.write_bytes(b"GGML" + bytes(60))
    with pytest.raises(InputError, match="GGUF file"):
        GgufFile(other)
