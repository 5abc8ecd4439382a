"""The quantisation of a checkpoint's weights, wherever its files tell it, and whether TurboMind takes that.

The rules are those of LMDeploy 0.18 (`turbomind/converter.py`), which checks them by assertions after a
minute of imports.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.domain.turns import ErrorInfo
from core.i18n import N_, Text
from core.models.model_config import ModelConfig, read_json

AWQ = "awq"
_CONFIG_FILES = ("quant_config.json", "quantize_config.json", "hf_quant_config.json")
_DEFAULT_GROUP_SIZES = {"awq": 128, "gptq": 128, "compressed-tensors": 128, "fp8": 128, "mxfp4": 32}
_GROUP_SIZES = {"awq": {128}, "gptq": {128}, "compressed-tensors": {32, 128}, "fp8": {128}, "mxfp4": {32}}


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
