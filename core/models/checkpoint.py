"""Facts about a checkpoint on disk, from config.json and the headers of its safetensors files.

Knows the names under which Hugging Face configs keep their sizes. Loads no weights and needs no torch: a
safetensors file begins with eight bytes of header length and a JSON header with each tensor's dtype and shape
(https://huggingface.co/docs/safetensors/index#format).
"""

import json
import math
import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.errors import InputError
from core.i18n import N_, Message

_MAX_HEADER_BYTES = 100 * 2**20
_PACKED_4_BIT = ".qweight"
_VALUES_PER_INT32 = 8
_NOT_PARAMETERS = (".qzeros", ".scales")


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointFacts:
    """What a checkpoint is made of. Sizes are those of the text model where there is a vision part too."""

    architecture: str
    """The first of the config's `architectures`, such as `LlamaForCausalLM`."""
    model_type: str
    layers: int
    hidden_size: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate_size: int
    vocab_size: int
    tie_word_embeddings: bool
    dtype: str | None
    """The dtype the config names, such as `bfloat16`."""
    max_position_embeddings: int | None
    quantization: str | None
    """The quantisation method (`awq`, `gptq`, `fp8`, …); None for plain weights."""
    group_size: int | None
    """Weights that share a scale; None for plain weights."""
    weight_bytes: int
    """The tensors' bytes on disk."""
    parameters: int | None
    """Weights and biases, counting a packed 4-bit weight as one; None for other files than safetensors."""
    sliding_window: int | None
    """Tokens that a layer looks back, where it is limited."""
    is_mla: bool
    """Multi-head latent attention: the KV cache holds a compressed form."""
    is_hybrid: bool
    """Some layers keep a fixed state (linear attention, Mamba) instead of a KV cache."""
    experts: int | None
    """Experts of a mixture-of-experts layer; None for a dense model."""
    expert_intermediate_size: int | None

    @property
    def linear_in_features(self) -> tuple[int, ...]:
        """Input widths of a decoder layer's linear layers: q/k/v, gate and up; o; down; experts' down."""
        widths = {self.hidden_size, self.heads * self.head_dim, self.intermediate_size}
        if self.expert_intermediate_size:
            widths.add(self.expert_intermediate_size)
        return tuple(sorted(widths))

    @property
    def embedding_parameters(self) -> int:
        """Token embeddings and output head, which quantisers leave as they are."""
        return self.vocab_size * self.hidden_size * (1 if self.tie_word_embeddings else 2)


def checkpoint_folder(checkpoint: str) -> Path:
    """The local folder of a checkpoint: itself, or the newest snapshot of a hub id in the Hugging Face cache.

    Raises InputError (`model-not-here`) where neither exists.
    """
    folder = Path(checkpoint).expanduser()
    if folder.is_dir():
        return folder
    repository = _hub_cache() / f"models--{checkpoint.replace('/', '--')}"
    try:
        commit = (repository / "refs" / "main").read_text("utf-8").strip()
    except OSError:
        commit = ""
    snapshot = repository / "snapshots" / commit
    if commit and snapshot.is_dir():
        return snapshot
    raise InputError(
        N_("The checkpoint {name} is not on this machine.", name=checkpoint),
        hint=N_("Check the path. To download a hub ID, run `hf download ID --local-dir FOLDER`."),
        code="model-not-here",
    )


def read_checkpoint(path: str | Path) -> CheckpointFacts:
    """The facts of the checkpoint in a folder.

    Raises InputError: `model-not-here`, `model-unreadable` (no or a broken config.json, or one that names too
    few sizes), `model-incomplete` (weights missing or cut off).
    """
    folder = checkpoint_folder(str(path))
    config = read_json(folder / "config.json")
    text = text_config(config)
    weight_bytes, parameters = _weights(folder)
    quantization = _mapping(config.get("quantization_config") or text.get("quantization_config") or {})
    heads = _size(text, "num_attention_heads", folder)
    hidden_size = _size(text, "hidden_size", folder)
    return CheckpointFacts(
        architecture=next(iter(config.get("architectures") or ()), "unknown"),
        model_type=str(config.get("model_type", "unknown")),
        layers=_size(text, "num_hidden_layers", folder),
        hidden_size=hidden_size,
        heads=heads,
        kv_heads=text.get("num_key_value_heads") or heads,
        head_dim=text.get("head_dim") or hidden_size // heads,
        intermediate_size=_size(text, "intermediate_size", folder),
        vocab_size=_size(text, "vocab_size", folder),
        tie_word_embeddings=bool(config.get("tie_word_embeddings", text.get("tie_word_embeddings", False))),
        dtype=_first(text, "dtype", "torch_dtype") or _first(config, "dtype", "torch_dtype"),
        max_position_embeddings=text.get("max_position_embeddings"),
        quantization=quantization.get("quant_method"),
        group_size=quantization.get("group_size"),
        weight_bytes=weight_bytes,
        parameters=parameters,
        # Qwen2 names a window that it does not use.
        sliding_window=text.get("sliding_window") if text.get("use_sliding_window", True) else None,
        is_mla="kv_lora_rank" in text,
        is_hybrid=any("attention" not in kind or "linear" in kind for kind in _layer_types(text)),
        experts=_first(text, "num_local_experts", "num_experts", "n_routed_experts"),
        expert_intermediate_size=text.get("moe_intermediate_size"),
    )


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
    except (OSError, struct.error, ValueError, KeyError, TypeError) as exc:
        raise InputError(
            N_("{file} can't be read: {reason}", file=file, reason=exc),
            hint=N_("Download or convert the checkpoint again."),
            code="model-incomplete",
        ) from exc
    return dict(header)


def _weights(folder: Path) -> tuple[int, int | None]:
    """(tensor bytes, parameters) over all weight files."""
    files = _safetensors_files(folder)
    if not files:
        old = [*folder.glob("pytorch_model*.bin")]
        if not old:
            raise _incomplete(folder, N_("it has no weights"))
        return sum(file.stat().st_size for file in old), None
    weight_bytes = parameters = 0
    for file in files:
        for name, entry in read_safetensors_header(file).items():
            start, end = entry["data_offsets"]
            weight_bytes += end - start
            parameters += _parameters(name, entry["shape"])
    return weight_bytes, parameters


def _parameters(name: str, shape: list[int]) -> int:
    if name.endswith(_NOT_PARAMETERS):
        return 0
    values = math.prod(shape)
    return values * _VALUES_PER_INT32 if name.endswith(_PACKED_4_BIT) else values


def _safetensors_files(folder: Path) -> list[Path]:
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        return sorted(folder.glob("*.safetensors"))
    names = sorted(set(_mapping(read_json(index).get("weight_map")).values()))
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise _incomplete(
            folder, N_("{n} of {total} weight files are missing", n=len(missing), total=len(names))
        )
    return [folder / name for name in names]


def text_config(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The part of a config.json that describes the language model: a nested one, else the whole."""
    for name in ("text_config", "llm_config", "language_config"):
        if inner := _mapping(config.get(name)):
            return inner
    return config


def _layer_types(text: Mapping[str, Any]) -> list[str]:
    kinds = text.get("layer_types")
    return [str(kind) for kind in kinds] if isinstance(kinds, list) else []


def _size(config: Mapping[str, Any], name: str, folder: Path) -> int:
    value = config.get(name)
    if isinstance(value, int) and value > 0:
        return value
    raise InputError(
        N_("config.json in {path} has no {key}.", path=folder, key=name),
        hint=N_("Use a decoder-only language model in the Hugging Face format."),
        code="model-unreadable",
    )


def read_json(file: Path) -> dict[str, Any]:
    """A JSON object; {} for JSON of another kind. Raises InputError (`model-unreadable`)."""
    try:
        content = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError) as exc:
        raise InputError(
            N_("{file} can't be read: {reason}", file=file, reason=exc),
            hint=N_("A checkpoint is a folder in the Hugging Face format with a config.json."),
            code="model-unreadable",
        ) from exc
    return dict(_mapping(content))


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _first(config: Mapping[str, Any], *names: str) -> Any:  # noqa: ANN401 - JSON
    return next((config[name] for name in names if config.get(name) is not None), None)


def _incomplete(folder: Path, reason: Message) -> InputError:
    return InputError(
        N_("The checkpoint in {path} is incomplete: {reason}.", path=folder, reason=reason),
        hint=N_("Download or convert it again."),
        code="model-incomplete",
    )


def _hub_cache() -> Path:
    """Where huggingface_hub keeps downloads (HF_HUB_CACHE, else HF_HOME/hub)."""
    if cache := os.environ.get("HF_HUB_CACHE"):
        return Path(cache)
    home = os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface"
    return Path(home) / "hub"
