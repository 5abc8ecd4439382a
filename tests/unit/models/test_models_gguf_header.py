"""Headers of GGUF files."""

import struct

import pytest

from core.errors import InputError
from core.models.gguf_header import read_gguf_header


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
