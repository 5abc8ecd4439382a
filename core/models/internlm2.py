"""InternLM2 becomes a Llama checkpoint, once and without remote code, so that every engine loads one file.

InternLM2 (arXiv 2403.17297) is a Llama whose query, key and value projections are stored as one matrix and
whose layers have names of their own. Engines disagree on how to load that: transformers 5 neither knows the
architecture nor runs its old remote code. This module looks, refuses what would convert wrongly, and starts
the conversion (`core.models.internlm2_to_llama`) as a child process. Imports no engine library.
"""

import hashlib
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.config import awq_dir
from core.config.lanes import MODEL_NAME
from core.domain.specs import ModelSpec
from core.errors import InputError
from core.i18n import N_, Message
from core.models.checkpoint import checkpoint_folder
from core.models.model_folders import (
    StageCallback,
    exclusive,
    read_provenance_note,
    require_space,
    run_child,
    staging,
    write_provenance,
)
from core.settings import Settings

ROPE_TYPES = ("default", "linear", "dynamic")
"""The RoPE scalings that InternLM2's own code has; all are the same in Llama."""

_RESERVE_BYTES = 64 * 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The input files of a conversion."""

    source: Path
    config: dict[str, Any]
    shards: tuple[Path, ...]

    @property
    def weight_bytes(self) -> int:
        """Also the size of the result: no value changes."""
        return sum(shard.stat().st_size for shard in self.shards)


def is_internlm2(folder: Path) -> bool:
    """Whether a folder holds a checkpoint in InternLM2's own layout."""
    try:
        config = json.loads((folder / "config.json").read_text("utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(config, dict) and config.get("model_type") == "internlm2"


def plan(source: Path) -> Plan:
    """Look whether a checkpoint can be converted.

    Raises InputError: `not-internlm2`, `model-incomplete`, or `internlm2-variant` for one whose Llama form
    would compute something else.
    """
    if not is_internlm2(source):
        raise InputError(
            N_("{path} is not an InternLM2 checkpoint.", path=source),
            hint=N_('Its config.json must contain "model_type": "internlm2". InternLM3 needs no conversion.'),
            code="not-internlm2",
        )
    config = json.loads((source / "config.json").read_text("utf-8"))
    if config.get("bias"):
        raise _variant(
            N_("its attention has biases"), N_("Only checkpoints with bias = false can be converted.")
        )
    if rope_type(config) not in ROPE_TYPES:
        raise _variant(
            N_('its RoPE scaling is "{kind}"', kind=rope_type(config)),
            N_("Supported: {names}.", names=", ".join(ROPE_TYPES)),
        )
    shards = _shards(source)
    for file in (*shards, source / "tokenizer.model"):
        if not file.is_file():
            raise InputError(
                N_("{file} is missing from {path}.", file=file.name, path=source),
                hint=N_("Download the whole checkpoint."),
                code="model-incomplete",
            )
    return Plan(source=source, config=config, shards=shards)


def rope_type(config: dict[str, Any]) -> str:
    """The RoPE scaling that a config asks for; `default` is none."""
    scaling = config.get("rope_scaling") or {}
    return str(scaling.get("rope_type") or scaling.get("type") or "default")


def convert(settings: Settings, source: Path, *, name: str | None = None, report: StageCallback) -> ModelSpec:
    """Write the Llama form of `source` into the models folder, as `name` or SOURCE-llama.

    Returns at once if it was made from the same source before. Takes a minute for each 10 GB or so, as much
    disk as the source, and the memory of its largest shard. Safe to call from several processes.

    Raises:
        InputError: no InternLM2 checkpoint, one that can't be converted, or the name is taken.
        ModelError: no space, or the conversion failed.
    """
    began_s = time.time()
    source = checkpoint_folder(str(source)).resolve()
    checkpoint = plan(source)
    name = name or f"{source.name}-llama"
    if not MODEL_NAME.fullmatch(name):
        raise InputError(
            N_("{key} is not a valid model name.", key=f'"{name}"'),
            hint=N_("Use letters, digits, dots, hyphens, and underscores."),
        )
    folder = settings.models_dir / name
    origin = {"checkpoint": source.name, "config_sha256": _sha256(source / "config.json")}
    spec = ModelSpec(name=name, checkpoint=str(folder), awq=str(awq_dir(settings, name)))
    with exclusive(settings, name, report):
        if folder.exists():
            _require_same_origin(folder, origin)
            return spec
        require_space(settings.models_dir, checkpoint.weight_bytes + _RESERVE_BYTES, name)
        with staging(folder) as draft:
            run_child(
                "core.models.internlm2_to_llama",
                [str(source), str(draft)],
                settings.logs_dir / f"{name}.log",
                report,
            )
            write_provenance(
                draft,
                source=origin,
                changes="InternLM2's layout to Llama's: wqkv split into query, key and value projections, "
                "layers renamed, tokenizer and chat template rebuilt; no value changed",
                packages=("torch", "transformers", "safetensors", "sentencepiece", "tokenizers"),
                began_s=began_s,
            )
    report(N_("{model} is ready", model=name))
    return spec


def _shards(source: Path) -> tuple[Path, ...]:
    """The weight files, safetensors before PyTorch's own; one that should be there but isn't included."""
    for stem in ("model.safetensors", "pytorch_model.bin"):
        if (source / stem).is_file():
            return (source / stem,)
        index = source / f"{stem}.index.json"
        if index.is_file():
            weight_map = json.loads(index.read_text("utf-8"))["weight_map"]
            return tuple(source / file for file in sorted(set(weight_map.values())))
    return (source / "model.safetensors",)


def _require_same_origin(folder: Path, origin: dict[str, str]) -> None:
    note = read_provenance_note(folder)
    if note is None or note.get("source") != origin:
        raise InputError(
            N_("{path} already exists and was made from something else.", path=folder),
            hint=N_("Choose another name, or remove that folder."),
            code="name-taken",
        )


def _sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _variant(reason: Message, hint: Message) -> InputError:
    return InputError(
        N_("This InternLM2 checkpoint can't be converted to Llama: {reason}.", reason=reason),
        hint=hint,
        code="internlm2-variant",
    )
