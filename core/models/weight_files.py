"""The weights of a checkpoint: which files an engine loads, what their headers say, how they are quantised.

A safetensors file begins with eight bytes of header length and a JSON header with each tensor's dtype and
shape (https://huggingface.co/docs/safetensors/index#format); a GGUF file with its metadata and a list of its
tensors (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md). So no weights need to be loaded. Standard
library only, and quick: the hundred thousand strings of a tokenizer in a GGUF file take a tenth of a second.

Whether TurboMind takes quantised weights follows from the rules of LMDeploy 0.18 (`turbomind/converter.py`),
which checks them by assertions after a minute of imports.
"""

import json
import math
import mmap
import re
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.domain.turns import ErrorInfo
from core.errors import InputError
from core.i18n import N_, Text
from core.models.model_config import ModelConfig, read_json

AWQ = "awq"
_CONFIG_FILES = ("quant_config.json", "quantize_config.json", "hf_quant_config.json")
_DEFAULT_GROUP_SIZES = {"awq": 128, "gptq": 128, "compressed-tensors": 128, "fp8": 128, "mxfp4": 32}
_GROUP_SIZES = {"awq": {128}, "gptq": {128}, "compressed-tensors": {32, 128}, "fp8": {128}, "mxfp4": {32}}

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
_GGUF_MAGIC = b"GGUF"
_GGUF_VERSIONS = (2, 3)
_GGUF_STRING, _GGUF_ARRAY = 8, 9
_GGUF_SCALARS: Mapping[int, str] = {
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
_GGUF_ALIGNMENT = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantization:
    """The quantisation that a checkpoint's files declare; None for what they leave open."""

    method: str
    """`awq`, `gptq`, `fp8`, `bitsandbytes`, …"""
    bits: int | None = None
    group_size: int | None = None
    version: str | None = None
    """AWQ's layout: `gemm` or `gemv`."""
    desc_act: bool = False
    """GPTQ: columns are ordered by their activations."""
    symmetric: bool = True
    layout: str | None = None
    """compressed-tensors' `format`."""

    @property
    def values_per_int32(self) -> int:
        return 32 // self.bits if self.bits in (2, 4, 8) else 8


def read_quantization(
    folder: Path | None, config: ModelConfig, tensors: Mapping[str, Any]
) -> Quantization | None:
    """From config.json, else a file beside it, else the tensors' names; None for plain weights.

    Args:
        folder: where files beside config.json are; None if there is no folder.
        config: the checkpoint's config.json.
        tensors: headers of its safetensors files; empty if there are none.
    """
    for values in (config.values, config.text):
        for key in ("quantization_config", "compression_config"):
            if value := values.get(key):
                # Weights whose method is told in an unusual way are quantised all the same.
                return _of_config(value if isinstance(value, dict) else {"quant_method": value})
    for name in _CONFIG_FILES if folder is not None else ():
        assert folder is not None
        if (folder / name).is_file() and (quantization := _of_file(name, read_json(folder / name))):
            return quantization
    return _of_tensors(tensors)


def turbomind_refusal(quantization: Quantization) -> ErrorInfo | None:
    """Return why TurboMind can't load weights of this kind, and what to do; None if it can."""
    method = quantization.method
    if method not in _GROUP_SIZES:
        return _refused(N_("TurboMind doesn't support {method} weights.", method=method))
    if method == AWQ and (quantization.version or "gemm").lower() != "gemm":
        return _refused(
            N_(
                "TurboMind supports AWQ weights only in the layout GEMM, not {layout}.",
                layout=quantization.version or "",
            )
        )
    if method == "gptq" and quantization.desc_act:
        return _refused(N_("TurboMind doesn't support GPTQ weights with desc_act (activation order)."))
    if method == "gptq" and not quantization.symmetric:
        return _refused(N_("TurboMind supports only symmetric GPTQ weights."))
    if method == "compressed-tensors" and quantization.layout not in (None, "pack-quantized"):
        return _refused(
            N_(
                "TurboMind supports compressed-tensors weights only in the format pack-quantized, not "
                "{layout}.",
                layout=quantization.layout or "",
            )
        )
    if method in (AWQ, "gptq", "compressed-tensors") and quantization.bits not in (None, 4):
        return _refused(
            N_(
                "TurboMind supports {method} weights only with 4 bits, not {bits}.",
                method=method,
                bits=quantization.bits or 0,
            )
        )
    group_size = quantization.group_size or _DEFAULT_GROUP_SIZES[method]
    if method != "fp8" and group_size not in _GROUP_SIZES[method]:
        return ErrorInfo(
            "group-size",
            N_(
                "The weights are quantised in groups of {size}. TurboMind supports groups of {needed}.",
                size=group_size,
                needed=", ".join(map(str, sorted(_GROUP_SIZES[method]))),
            ),
            N_("Quantise the 16-bit weights again with groups of 128: `lmdyno quantize`."),
        )
    return None


def _refused(message: Text) -> ErrorInfo:
    return ErrorInfo(
        "quantization-not-served",
        message,
        N_(
            "Use the 16-bit weights, or quantise them with `lmdyno quantize`. A transformers lane may "
            "load these."
        ),
    )


def _of_config(values: Mapping[str, Any]) -> Quantization:
    """A `quantization_config` as transformers writes it."""
    method = str(values.get("quant_method") or values.get("quantization_method") or "unknown").lower()
    groups = values.get("config_groups")
    group: Any = next(iter(groups.values()), {}) if isinstance(groups, dict) else {}
    weights = group.get("weights") if isinstance(group, dict) else None
    weights = weights if isinstance(weights, dict) else {}
    bits = values.get("bits") or values.get("w_bit") or weights.get("num_bits")
    if method == "bitsandbytes":
        bits = 4 if values.get("load_in_4bit") or values.get("_load_in_4bit") else 8
    return Quantization(
        method=method,
        bits=_whole(bits),
        group_size=_whole(
            values.get("group_size") or values.get("q_group_size") or weights.get("group_size")
        ),
        version=_text(values.get("version")),
        desc_act=values.get("desc_act") is True,
        symmetric=values.get("sym") is not False,
        layout=_text(group.get("format") if isinstance(group, dict) else None) or _text(values.get("format")),
    )


def _of_file(name: str, values: Mapping[str, Any]) -> Quantization | None:
    """AutoAWQ's, AutoGPTQ's, and NVIDIA ModelOpt's files; None if nothing is quantised."""
    if name == "hf_quant_config.json":
        inner = values.get("quantization")
        algorithm = inner.get("quant_algo") if isinstance(inner, dict) else None
        if not isinstance(inner, dict) or not isinstance(algorithm, str):
            return None
        return Quantization(
            method=f"modelopt-{algorithm.lower()}",
            bits=4 if "4" in algorithm else 8,
            group_size=_whole(inner.get("group_size")),
        )
    if not values:
        return None
    own = AWQ if name == "quant_config.json" else "gptq"
    return _of_config({"quant_method": own, **values})


def _of_tensors(tensors: Mapping[str, Any]) -> Quantization | None:
    """AWQ packs eight columns of a matrix, GPTQ eight rows, beside scales of all columns."""
    stems = [name.removesuffix(".qweight") for name in tensors if name.endswith(".qweight")]
    if not stems:
        return None
    if any(f"{stem}.g_idx" in tensors for stem in stems):
        return Quantization(method="gptq", bits=4, group_size=_group_size(tensors, stems, packs_rows=True))
    packed, scales = _shapes(tensors, stems[0])
    packs_rows = bool(packed and scales and packed[-1] == scales[-1])
    method = "gptq" if packs_rows else AWQ
    return Quantization(method=method, bits=4, group_size=_group_size(tensors, stems, packs_rows=packs_rows))


def _group_size(tensors: Mapping[str, Any], stems: Iterable[str], *, packs_rows: bool) -> int | None:
    for stem in stems:
        packed, scales = _shapes(tensors, stem)
        if packed and scales and scales[0]:
            return int(packed[0] * (8 if packs_rows else 1)) // int(scales[0])
    return None


def _shapes(tensors: Mapping[str, Any], stem: str) -> tuple[list[int], list[int]]:
    packed, scales = (tensors.get(f"{stem}.{part}", {}).get("shape") or [] for part in ("qweight", "scales"))
    return packed, scales


def _whole(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


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
            return _GgufReader(data).header()
    except (OSError, ValueError, LookupError, struct.error) as exc:
        raise InputError(
            N_("{file} can't be read as a GGUF file: {reason}", file=path, reason=exc),
            hint=N_("Download or convert it again."),
            code="model-unreadable",
        ) from exc


class _GgufReader:
    def __init__(self, data: mmap.mmap) -> None:
        self._data = data
        self._at = 0

    def header(self) -> GgufHeader:
        if self._data[:4] != _GGUF_MAGIC:
            raise ValueError("it doesn't begin with GGUF")
        self._at = 4
        if (version := self._scalar("I")) not in _GGUF_VERSIONS:
            raise ValueError(f"version {version}")
        tensors, fields = self._scalar("Q"), self._scalar("Q")
        metadata = {self._string(): self._value(self._scalar("I")) for _ in range(fields)}
        described = {self._string(): self._tensor() for _ in range(tensors)}
        alignment = metadata.get("general.alignment", _GGUF_ALIGNMENT)
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
        if kind == _GGUF_STRING:
            return self._string()
        if kind != _GGUF_ARRAY:
            return self._scalar(_GGUF_SCALARS[kind])
        kind, length = self._scalar("I"), self._scalar("Q")
        if kind in (_GGUF_STRING, _GGUF_ARRAY):
            return [self._value(kind) for _ in range(length)]
        values = struct.unpack_from(f"<{length}{_GGUF_SCALARS[kind]}", self._data, self._at)
        self._at += struct.calcsize(f"<{length}{_GGUF_SCALARS[kind]}")
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
