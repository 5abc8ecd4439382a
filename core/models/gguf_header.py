"""The header of a GGUF file: its metadata, and what tensors it holds.

The format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. Standard library only, and quick: a
tokenizer's hundred thousand strings take a tenth of a second.
"""

import math
import mmap
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.errors import InputError
from core.i18n import N_

_MAGIC = b"GGUF"
_VERSIONS = (2, 3)
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
class GgufTensor:
    """A tensor's place in the file, and its type."""

    shape: tuple[int, ...]
    """As NumPy orders it, the fastest dimension last."""
    kind: int
    """ggml's number of its quantisation."""
    offset: int
    """From the beginning of the file."""

    @property
    def values(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True, slots=True)
class GgufHeader:
    metadata: Mapping[str, Any]
    tensors: Mapping[str, GgufTensor]

    @property
    def parameters(self) -> int:
        return sum(tensor.values for tensor in self.tensors.values())


def read_gguf_header(path: Path) -> GgufHeader:
    """Raises InputError (`model-unreadable`) for a file that is none of version 2 or 3, or was cut off."""
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _Reader(data).header()
    except (OSError, ValueError, LookupError, struct.error) as exc:
        raise InputError(
            N_("{file} can't be read as a GGUF file: {reason}", file=path, reason=exc),
            hint=N_("Download or convert it again."),
            code="model-unreadable",
        ) from exc


class _Reader:
    def __init__(self, data: mmap.mmap) -> None:
        self._data = data
        self._at = 0

    def header(self) -> GgufHeader:
        if self._data[:4] != _MAGIC:
            raise ValueError("it doesn't begin with GGUF")
        self._at = 4
        if (version := self._scalar("I")) not in _VERSIONS:
            raise ValueError(f"version {version}")
        tensors, fields = self._scalar("Q"), self._scalar("Q")
        metadata = {self._string(): self._value(self._scalar("I")) for _ in range(fields)}
        described = {self._string(): self._tensor() for _ in range(tensors)}
        alignment = metadata.get("general.alignment", _DEFAULT_ALIGNMENT)
        begin = -(-self._at // alignment) * alignment
        placed = {
            name: GgufTensor(tensor.shape, tensor.kind, begin + tensor.offset)
            for name, tensor in described.items()
        }
        return GgufHeader(metadata, placed)

    def _tensor(self) -> GgufTensor:
        dimensions = self._scalar("I")
        shape = tuple(self._scalar("Q") for _ in range(dimensions))
        return GgufTensor(shape[::-1], self._scalar("I"), self._scalar("Q"))

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
        if end > len(self._data):
            raise ValueError("the file is cut off")
        self._at = end
        return self._data[start:end].decode("utf-8", "replace")

    def _scalar(self, kind: str) -> Any:  # noqa: ANN401 - a number
        (value,) = struct.unpack_from(f"<{kind}", self._data, self._at)
        self._at += struct.calcsize(f"<{kind}")
        return value
