"""A GGUF file's tensors, dequantised with the package `gguf`. Runs in a child process."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize

from core.models.gguf_header import read_gguf_header


class GgufFile:
    """An open file; raises InputError for one that is no GGUF file."""

    def __init__(self, path: Path) -> None:
        self._header = read_gguf_header(path)
        self._data = np.memmap(path, np.uint8, "r")

    @property
    def metadata(self) -> Mapping[str, Any]:
        return self._header.metadata

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._header.tensors)

    def tensor(self, name: str) -> npt.NDArray[np.float32]:
        """A tensor's values, dequantised."""
        tensor = self._header.tensors[name]
        kind = GGMLQuantizationType(tensor.kind)
        per_block, block_bytes = GGML_QUANT_SIZES[kind]
        row_bytes = tensor.shape[-1] // per_block * block_bytes
        size = tensor.values // tensor.shape[-1] * row_bytes
        raw = np.asarray(self._data[tensor.offset : tensor.offset + size])
        values: npt.NDArray[np.float32] = dequantize(raw.reshape(*tensor.shape[:-1], row_bytes), kind)
        return values.reshape(tensor.shape)
