"""A GGUF file's metadata and tensors, read in a second.

The format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. The reader of the package `gguf` makes
a NumPy array of each string, and a tokenizer has a hundred thousand; its dequantisation is fast and used
here. Runs in a child process.
"""

import math
import mmap
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize

_MAGIC = b"GGUF"
_VERSION = 3
_STRING, _ARRAY = 8, 9
_SCALARS: Mapping[int, str] = {
    0: "B",
    1: "b",
    2: "H",
    3: "h",
    4: "I",
    5: "i",
    6: "f",
    7: "?",
    10: "Q",
    11: "q",
    12: "d",
}
_DEFAULT_ALIGNMENT = 32


@dataclass(frozen=True, slots=True)
class _Tensor:
    shape: tuple[int, ...]
    """As NumPy orders it, the fastest dimension last."""
    kind: GGMLQuantizationType
    offset: int


class GgufFile:
    """An open file; raises ValueError for one that is no GGUF file of version 3."""

    def __init__(self, path: Path) -> None:
        with path.open("rb") as file:
            self._data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self._at = 0
        if self._data[:4] != _MAGIC or struct.unpack_from("<I", self._data, 4) != (_VERSION,):
            raise ValueError(f"{path.name} is no GGUF file of version {_VERSION}")
        tensors, fields = struct.unpack_from("<QQ", self._data, 8)
        self._at = 24
        self.metadata: dict[str, Any] = {
            self._string(): self._value(self._scalar("I")) for _ in range(fields)
        }
        found = [(self._string(), self._tensor()) for _ in range(tensors)]
        alignment = self.metadata.get("general.alignment", _DEFAULT_ALIGNMENT)
        self._begin = -(-self._at // alignment) * alignment
        self._tensors = dict(found)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._tensors)

    def tensor(self, name: str) -> npt.NDArray[np.float32]:
        """A tensor's values, dequantised."""
        tensor = self._tensors[name]
        per_block, block_bytes = GGML_QUANT_SIZES[tensor.kind]
        size = math.prod(tensor.shape) // per_block * block_bytes
        raw = np.frombuffer(self._data, np.uint8, size, self._begin + tensor.offset)
        rows = raw.reshape(*tensor.shape[:-1], tensor.shape[-1] // per_block * block_bytes)
        values: npt.NDArray[np.float32] = dequantize(rows, tensor.kind)
        return values.reshape(tensor.shape)

    def _tensor(self) -> _Tensor:
        dimensions = self._scalar("I")
        shape = tuple(self._scalar("Q") for _ in range(dimensions))
        return _Tensor(shape[::-1], GGMLQuantizationType(self._scalar("I")), self._scalar("Q"))

    def _value(self, kind: int) -> Any:  # noqa: ANN401 - a number, text, or a list of either
        if kind == _STRING:
            return self._string()
        if kind != _ARRAY:
            return self._scalar(_SCALARS[kind])
        kind, length = self._scalar("I"), self._scalar("Q")
        if kind in (_STRING, _ARRAY):
            return [self._value(kind) for _ in range(length)]
        values = struct.unpack_from(f"<{length}{_SCALARS[kind]}", self._data, self._at)
        self._at += struct.calcsize(f"<{length}{_SCALARS[kind]}")
        return list(values)

    def _string(self) -> str:
        start = self._at + 8
        end = start + self._scalar("Q")
        self._at = end
        return self._data[start:end].decode("utf-8")

    def _scalar(self, kind: str) -> Any:  # noqa: ANN401 - a number
        (value,) = struct.unpack_from(f"<{kind}", self._data, self._at)
        self._at += struct.calcsize(f"<{kind}")
        return value
