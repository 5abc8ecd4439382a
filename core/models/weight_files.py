"""The weight files that an engine loads of a checkpoint, and what their headers say.

A safetensors file begins with eight bytes of header length and a JSON header with each tensor's dtype and
shape (https://huggingface.co/docs/safetensors/index#format), so that no weights need to be loaded.
"""

import json
import math
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.errors import InputError
from core.i18n import N_, Text
from core.models.model_config import read_json
from core.models.quantization import Quantization

MODEL_INCOMPLETE = "model-incomplete"

_MAX_HEADER_BYTES = 100 * 2**20
_INDEX = "model.safetensors.index.json"
_LAYER = re.compile(r"(?:^|\.)(?:layers|h|blocks)\.\d+\.")
_NOT_LANGUAGE = re.compile(
    r"(?:^|\.)[^.]*(?:vis|vit|image|img|audio|whisper|projector|resampler|aligner|mtp)[^.]*\.", re.IGNORECASE
)
_SIDE_VALUES = re.compile(
    r"\.(?:qzeros|scales|g_idx|weight_scale\w*|weight_zero_point|weight_shape|weight_g_idx|input_scale|"
    r"[kqv]_scale|SCB|weight_format)$|\.(?:absmax|quant_map|nested_\w+|quant_state\..+)$|_scales$"
)
_KEPT = re.compile(r"(?:^|[._])(?:norm|conv1d|gate|router|embed\w*)\.weight$|bias$")
"""What stays in 16 bits within a layer: a mixture's router, above all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightFacts:
    """The sizes and the quantisation of the tensors in weight files."""

    size_bytes: int
    """The tensors' bytes on disk."""
    parameters: int | None
    """Weights and biases, counting a packed one as one; None for other files than safetensors."""
    linear_parameters: int | None
    """Those of the language model's linear layers, which weight-only quantisation shrinks."""
    quantized: Quantization | None
    """How the weights are quantised; None for plain ones."""


def tensor_headers(folder: Path) -> dict[str, Any]:
    """Every tensor's header over all safetensors files that engines load; empty without any.

    Raises InputError (`model-incomplete`).
    """
    tensors: dict[str, Any] = {}
    for file in safetensors_files(folder):
        tensors |= read_safetensors_header(file)
    return tensors


def weight_facts(folder: Path, tensors: Mapping[str, Any], quantization: Quantization | None) -> WeightFacts:
    """Raises InputError (`model-incomplete`) if there are no weights."""
    if not tensors:
        pickled = _pickled_files(folder)
        if not pickled:
            raise incomplete(folder, N_("it has no weights"))
        size_bytes = sum(file.stat().st_size for file in pickled)
        return WeightFacts(
            size_bytes=size_bytes, parameters=None, linear_parameters=None, quantized=quantization
        )
    size_bytes = parameters = linear = 0
    for name, entry in tensors.items():
        start, end = entry["data_offsets"]
        size_bytes += end - start
        count = _parameters(name, entry, quantization)
        parameters += count
        if _is_linear(name, entry["shape"]):
            linear += count
    return WeightFacts(
        size_bytes=size_bytes, parameters=parameters, linear_parameters=linear, quantized=quantization
    )


def safetensors_files(folder: Path) -> list[Path]:
    """As engines choose them: those of the index, else `model*.safetensors`, else the only file there is.

    Files beside them, such as `consolidated.safetensors` or an adapter's, hold the same weights in another
    form or other weights.
    """
    index = folder / _INDEX
    if not index.is_file():
        named = sorted(folder.glob("model*.safetensors"))
        others = [file for file in folder.glob("*.safetensors") if not file.name.startswith("adapter")]
        return named or (others if len(others) == 1 else [])
    weight_map = read_json(index).get("weight_map")
    names = sorted(set(map(str, weight_map.values()))) if isinstance(weight_map, dict) else []
    missing = [name for name in names if not (folder / name).is_file()]
    if missing or not names:
        raise incomplete(
            folder,
            N_("{n} of {total} weight files are missing", n=len(missing), total=len(names)),
        )
    return [folder / name for name in names]


def read_safetensors_header(file: Path) -> dict[str, Any]:
    """Every tensor's entry (`dtype`, `shape`, `data_offsets`) of a safetensors file, without its metadata.

    Raises InputError (`model-incomplete`) for a file that is no safetensors file or was cut off.
    """
    try:
        with file.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            if length > _MAX_HEADER_BYTES:
                raise ValueError(f"a header of {length} bytes")
            header = json.loads(stream.read(length))
        header.pop("__metadata__", None)
        end = max((entry["data_offsets"][1] for entry in header.values()), default=0)
        if file.stat().st_size < 8 + length + end:
            raise ValueError("the file is shorter than its header says")
    except (OSError, struct.error, ValueError, KeyError, TypeError, AttributeError) as exc:
        raise InputError(
            N_("{file} can't be read: {reason}", file=file, reason=exc),
            hint=N_("Download or convert the checkpoint again."),
            code=MODEL_INCOMPLETE,
        ) from exc
    return dict(header)


def incomplete(folder: Path, reason: Text) -> InputError:
    return InputError(
        N_("The checkpoint in {path} is incomplete: {reason}.", path=folder, reason=reason),
        hint=N_("Download or convert it again."),
        code=MODEL_INCOMPLETE,
    )


def _pickled_files(folder: Path) -> list[Path]:
    return sorted(folder.glob("pytorch_model*.bin"))


def _parameters(name: str, entry: Mapping[str, Any], quantization: Quantization | None) -> int:
    if _SIDE_VALUES.search(name):
        return 0
    values: int = math.prod(entry["shape"])
    if name.endswith((".qweight", ".weight_packed")):
        return values * (quantization.values_per_int32 if quantization else 8)
    packs_two = entry["dtype"] == "U8" and (name.endswith(("_blocks", ".weight")))
    return values * 2 if packs_two else values


def _is_linear(name: str, shape: list[int]) -> bool:
    """Whether it is a matrix of a decoder layer of the language model."""
    layer = _LAYER.search(name)
    if layer is None or len(shape) < 2 or _SIDE_VALUES.search(name):
        return False
    return not _NOT_LANGUAGE.search(name[: layer.end()]) and not _KEPT.search(name)
