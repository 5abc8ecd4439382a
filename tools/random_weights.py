"""Writes safetensors files full of random values, as fast as the disk takes them.

Drawing billions of normal values takes longer than loading them. So one block is drawn and written again and
again, each time from another place of it; its length shares no factor with a matrix's, so rows don't repeat.
"""

import json
import math
import os
import zlib
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

_BLOCK_VALUES = 2**24 - 3
_STD = 0.02
_THREADS = 8


class Values(Enum):
    """What a tensor is filled with."""

    NORMAL = "float16, normal around 0"
    SCALES = "float16, small and positive: the scales of quantised weights"
    PACKED = "int32, any bits: eight weights of four bits"
    ONES = "float16, 1"
    ZEROS = "float16, 0"


@dataclass(frozen=True, slots=True)
class Weight:
    """One tensor of a checkpoint."""

    shape: tuple[int, ...]
    values: Values = Values.NORMAL
    known_rows: int | None = None
    """Rows after these are 0: in an output layer tokens that the tokenizer doesn't know, which never win."""
    silent_rows: tuple[int, ...] = ()
    """Further rows of 0, such as `silent_tokens`."""

    @property
    def size_bytes(self) -> int:
        return math.prod(self.shape) * (4 if self.values is Values.PACKED else 2)

    @property
    def written_bytes(self) -> int:
        if self.values is Values.ZEROS:
            return 0
        rows = self.shape[0] if self.known_rows is None else min(self.known_rows, self.shape[0])
        return self.size_bytes // self.shape[0] * rows


def silent_tokens(tokenizer: Path) -> tuple[int, ...]:
    """Tokens without a visible text of their own: special ones, blanks, and parts of characters.

    A model that fell into repeating one would answer without a word, and nothing could be timed.
    """
    known = Tokenizer.from_file(str(tokenizer / "tokenizer.json"))
    texts = known.decode_batch([[number] for number in range(known.get_vocab_size())])
    return tuple(number for number, text in enumerate(texts) if not text.strip() or "\ufffd" in text)


def write_weights(path: Path, weights: Mapping[str, Weight], *, seed: int = 0) -> None:
    """Write all tensors into one safetensors file."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    places, end = {}, 0
    for name, weight in weights.items():
        places[name], end = end, end + weight.size_bytes
        dtype = "I32" if weight.values is Values.PACKED else "F16"
        header[name] = {"dtype": dtype, "shape": weight.shape, "data_offsets": [places[name], end]}
    head = json.dumps(header).encode()
    head += b" " * (-len(head) % 8)
    blocks = _blocks(seed)
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o644)
    try:
        os.pwrite(file, len(head).to_bytes(8, "little") + head, 0)
        start = 8 + len(head)
        os.truncate(file, start + end)
        with ThreadPoolExecutor(_THREADS) as pool:
            written = [
                pool.submit(_write, file, piece, start + places[name] + offset)
                for name, weight in weights.items()
                for offset, piece in _pieces(name, weight, blocks)
            ]
            for each in written:
                each.result()
        for name, weight in weights.items():
            row_bytes = weight.size_bytes // weight.shape[0]
            for row in weight.silent_rows:
                _write(file, memoryview(bytes(row_bytes)), start + places[name] + row * row_bytes)
    finally:
        os.close(file)


def _blocks(seed: int) -> Mapping[Values, memoryview]:
    source = np.random.default_rng(seed)
    normal = (source.standard_normal(_BLOCK_VALUES, dtype=np.float32) * _STD).astype(np.float16)
    drawn = {
        Values.NORMAL: normal,
        Values.SCALES: np.abs(normal) * np.float16(0.1),
        Values.PACKED: source.integers(-(2**31), 2**31, _BLOCK_VALUES // 2 | 1, dtype=np.int32),
        Values.ONES: np.ones(2**16, dtype=np.float16),
    }
    return {kind: memoryview(values).cast("B") for kind, values in drawn.items()}


def _pieces(
    name: str, weight: Weight, blocks: Mapping[Values, memoryview]
) -> Iterator[tuple[int, memoryview]]:
    """The tensor's bytes in pieces, each with its offset."""
    if not weight.written_bytes:
        return
    block = blocks[weight.values]
    place = zlib.crc32(name.encode()) % (len(block) // 4) * 4
    done = 0
    while done < weight.written_bytes:
        piece = block[place : place + weight.written_bytes - done]
        yield done, piece
        done += len(piece)
        place = 0


def _write(file: int, data: memoryview, offset: int) -> None:
    while data:
        count = os.pwrite(file, data, offset)
        data, offset = data[count:], offset + count
