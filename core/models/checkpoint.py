"""A checkpoint on this machine: its facts, and which architectures the installed LMDeploy serves.

The facts come from config.json and the headers of the weight files. Loads no weights and needs no torch. Of a
checkpoint that is nothing but a config.json the parameters are counted from it, and the facts say so. That
count knows decoder models with gated FFNs, dense or as a mixture of experts, and the vision transformers
beside them; biases and small parts (a few thousandths) are left out, so a count from weight files is
preferred.

What LMDeploy serves stands in its own tables: `SUPPORTED_ARCHS` in `turbomind/supported_models.py` and
`MODULE_MAP` in `pytorch/models/module_map.py`. The files are read, not imported: importing LMDeploy takes ten
seconds and half a gigabyte.
"""

import ast
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from core.errors import InputError
from core.i18n import N_
from core.models.model_config import Attention, ModelConfig, attention_of, read_config, read_json
from core.models.weight_files import (
    MODEL_INCOMPLETE,
    Quantization,
    WeightFacts,
    read_quantization,
    tensor_headers,
    weight_facts,
)

_BYTES_16_BIT = 2
_TIMEOUT_S = 30
_LOCATE = "from importlib.util import find_spec; print(find_spec('lmdeploy').origin)"


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointFacts:
    """The architecture and sizes of a checkpoint, those of the text model where there is a vision
    part too.
    """

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
    quantized: Quantization | None
    """How the weights are quantised; None for plain ones."""
    weight_bytes: int
    """The tensors' bytes on disk; without files, of the counted parameters in 16 bits."""
    parameters: int | None
    """Weights and biases, counting a packed 4-bit weight as one; None for other files than safetensors."""
    linear_parameters: int
    """Those of the language model's linear layers, which weight-only quantisation shrinks."""
    counted: bool
    """The parameters are counted from config.json, because there are no weight files."""
    attention: Attention
    experts: int | None
    """Experts of a mixture-of-experts layer; None for a dense model."""
    expert_intermediate_size: int | None

    @property
    def quantization(self) -> str | None:
        """The quantisation method (`awq`, `gptq`, `fp8`, …); None for plain weights."""
        return self.quantized.method if self.quantized else None

    @property
    def group_size(self) -> int | None:
        """Weights that share a scale; None for plain weights, and where it isn't told."""
        return self.quantized.group_size if self.quantized else None

    @property
    def linear_in_features(self) -> tuple[int, ...]:
        """Input widths of a decoder layer's linear layers: q/k/v, gate and up; o; down; experts' down."""
        widths = {self.hidden_size, self.heads * self.head_dim, self.intermediate_size}
        if self.expert_intermediate_size:
            widths.add(self.expert_intermediate_size)
        return tuple(sorted(widths))

    @property
    def embedding_parameters(self) -> int:
        """Token embeddings and output head."""
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
    config = read_config(folder)
    weights = _read_weights(folder, config)
    return _facts(config, weights.quantized, weights)


def read_weights(path: str | Path) -> WeightFacts:
    """Return what the weight files hold, whatever config.json says; raises InputError like
    `read_checkpoint`.
    """
    folder = checkpoint_folder(str(path))
    return _read_weights(folder, read_config(folder))


def read_sizes(path: str | Path) -> CheckpointFacts:
    """Like `read_checkpoint`; a folder with nothing but a config.json, and such a file, will do as well.

    Raises InputError: `model-not-here`, `model-unreadable`, and `model-incomplete` for cut-off files.
    """
    file = Path(path).expanduser()
    if file.is_file():
        return facts_of_config(ModelConfig(read_json(file), str(file)), file.parent)
    folder = checkpoint_folder(str(path))
    try:
        return read_checkpoint(folder)
    except InputError as error:
        if error.code != MODEL_INCOMPLETE or any(folder.glob("*.safetensors")):
            raise
        return facts_of_config(read_config(folder), folder)


def facts_of_config(config: ModelConfig, folder: Path | None = None) -> CheckpointFacts:
    """The facts that a config.json alone gives; `folder` is where files on its quantisation may be.

    Raises InputError (`model-unreadable`).
    """
    return _facts(config, read_quantization(folder, config, {}), None)


def _read_weights(folder: Path, config: ModelConfig) -> WeightFacts:
    tensors = tensor_headers(folder)
    return weight_facts(folder, tensors, read_quantization(folder, config, tensors))


def _facts(
    config: ModelConfig, quantized: Quantization | None, weights: WeightFacts | None
) -> CheckpointFacts:
    counted = count_parameters(config)
    linear = weights.linear_parameters if weights else None
    return CheckpointFacts(
        architecture=config.architecture,
        model_type=config.model_type,
        layers=config.size("num_hidden_layers"),
        hidden_size=config.size("hidden_size"),
        heads=config.heads,
        kv_heads=config.kv_heads,
        head_dim=config.head_dim,
        intermediate_size=config.size("intermediate_size"),
        vocab_size=config.size("vocab_size"),
        tie_word_embeddings=config.tie_word_embeddings,
        dtype=config.dtype,
        max_position_embeddings=config.whole("max_position_embeddings"),
        quantized=quantized,
        weight_bytes=weights.size_bytes
        if weights
        else _counted_bytes(counted.total, counted.linear, quantized),
        parameters=weights.parameters if weights else counted.total,
        linear_parameters=counted.linear if linear is None else linear,
        counted=weights is None,
        attention=attention_of(config),
        experts=experts_of(config),
        expert_intermediate_size=config.whole("moe_intermediate_size"),
    )


def _counted_bytes(total: int, linear: int, quantized: Quantization | None) -> int:
    """Linear layers with the bits that the config names, and a 16-bit scale and zero point for each group."""
    bits = 16.0
    if quantized is not None and quantized.bits:
        bits = quantized.bits + (32 / quantized.group_size if quantized.group_size else 0)
    elif quantized is not None and quantized.method == "fp8":
        bits = 8.0
    return int(linear * bits / 8) + (total - linear) * _BYTES_16_BIT


def _hub_cache() -> Path:
    """Return where huggingface_hub keeps downloads (HF_HUB_CACHE, else HF_HOME/hub)."""
    if cache := os.environ.get("HF_HUB_CACHE"):
        return Path(cache)
    home = os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface"
    return Path(home) / "hub"


@dataclass(frozen=True, slots=True, kw_only=True)
class ParameterCount:
    """Weights of a whole model."""

    linear: int
    """The language model's linear layers, which weight-only quantisation shrinks."""
    embeddings: int
    """Token embeddings and output head."""
    other: int
    """Norms, routers, and the vision part."""

    @property
    def total(self) -> int:
        return self.linear + self.embeddings + self.other


def count_parameters(config: ModelConfig) -> ParameterCount:
    """Raises InputError for a config that names too few sizes."""
    layers, hidden = config.size("num_hidden_layers"), config.size("hidden_size")
    attention = 2 * (config.heads + config.kv_heads) * config.head_dim * hidden
    experts_per_layer, routers = _experts(config)
    mixture_layers = _mixture_layers(config, layers) if experts_per_layer else 0
    dense = 3 * hidden * config.size("intermediate_size") if mixture_layers < layers else 0
    norms = (2 * layers + 1) * hidden
    return ParameterCount(
        linear=layers * attention + mixture_layers * experts_per_layer + (layers - mixture_layers) * dense,
        embeddings=config.size("vocab_size") * hidden * (1 if config.tie_word_embeddings else 2),
        other=norms + mixture_layers * routers + _vision(config),
    )


def experts_of(config: ModelConfig) -> int | None:
    """Experts of a mixture-of-experts layer; None for a dense model."""
    for name in ("num_local_experts", "num_experts", "n_routed_experts"):
        if (count := config.whole(name)) is not None:
            return count
    return None


def _experts(config: ModelConfig) -> tuple[int, int]:
    """Weights of a mixture layer's experts, shared ones included, and of its router."""
    experts = experts_of(config)
    if experts is None:
        return 0, 0
    hidden = config.size("hidden_size")
    width = config.whole("moe_intermediate_size") or config.size("intermediate_size")
    shared = config.whole("shared_expert_intermediate_size") or width * (
        config.whole("n_shared_experts") or 0
    )
    return 3 * hidden * (experts * width + shared), hidden * experts


def _mixture_layers(config: ModelConfig, layers: int) -> int:
    dense_first = config.whole("first_k_dense_replace") or 0
    step = config.whole("decoder_sparse_step") or 1
    dense = config.get("mlp_only_layers")
    dense_layers = set(dense) if isinstance(dense, list) else set()
    return sum(
        number >= dense_first and (number + 1) % step == 0 and number not in dense_layers
        for number in range(layers)
    )


def _vision(config: ModelConfig) -> int:
    """A vision transformer and its projector into the language model; 0 for a text model."""
    vision = config.values.get("vision_config")
    if not isinstance(vision, dict):
        return 0
    width = _number(vision, "hidden_size", "embed_dim")
    layers = _number(vision, "num_hidden_layers", "depth")
    if not width or not layers:
        return 0
    ffn = _number(vision, "intermediate_size") or int(width * (vision.get("mlp_ratio") or 4))
    gated = 3 if vision.get("model_type") == "qwen2_5_vl" else 2
    hidden = config.size("hidden_size")
    # Two layers from (several patches of) the tower's width to the language model's.
    patches = _number(vision, "spatial_merge_size") ** 2 or 1
    if config.values.get("downsample_ratio"):
        patches = round(1 / float(config.values["downsample_ratio"]) ** 2)
    projector = width * patches * hidden + hidden * hidden
    return layers * (4 * width * width + gated * width * ffn) + projector


def _number(values: Mapping[str, Any], *names: str) -> int:
    value = next((values[name] for name in names if isinstance(values.get(name), int)), 0)
    return int(value)


@dataclass(frozen=True, slots=True, kw_only=True)
class LmdeploySupport:
    """The architectures of one installed LMDeploy, as `architectures` in config.json names them."""

    version: str
    turbomind: frozenset[str]
    pytorch: frozenset[str]


def lmdeploy_support(python: str | None = None) -> LmdeploySupport | None:
    """The tables of the LMDeploy behind an interpreter (LMDyno's own by default).

    None where it isn't installed, and for a version whose tables look different: then nothing is known, and
    LMDeploy itself has to say.
    """
    folder = _own_folder() if python in (None, sys.executable) else _folder_behind(str(python))
    return _read_tables(folder) if folder is not None else None


def _own_folder() -> Path | None:
    spec = find_spec("lmdeploy")
    return Path(spec.origin).parent if spec is not None and spec.origin else None


@lru_cache(maxsize=8)
def _folder_behind(python: str) -> Path | None:
    try:
        done = subprocess.run(
            [python, "-c", _LOCATE],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_S,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return Path(done.stdout.strip()).parent


@lru_cache(maxsize=8)
def _read_tables(folder: Path) -> LmdeploySupport | None:
    try:
        version, turbomind, pytorch = (
            ast.parse((folder / name).read_text("utf-8"))
            for name in ("version.py", "turbomind/supported_models.py", "pytorch/models/module_map.py")
        )
    except (OSError, SyntaxError, ValueError):
        return None
    support = LmdeploySupport(
        version=next(_texts_assigned(version, "__version__"), "?"),
        turbomind=frozenset(_keys_assigned(turbomind, "SUPPORTED_ARCHS")),
        pytorch=frozenset(_keys_updated(pytorch, "MODULE_MAP")),
    )
    return support if support.turbomind and support.pytorch else None


def _texts_assigned(tree: ast.Module, name: str) -> Iterator[str]:
    for value in _assigned(tree, name):
        if isinstance(value, ast.Constant) and isinstance(value.value, str):
            yield value.value


def _keys_assigned(tree: ast.Module, name: str) -> Iterator[str]:
    for value in _assigned(tree, name):
        yield from _keys(value)


def _keys_updated(tree: ast.Module, name: str) -> Iterator[str]:
    """Keys of `NAME = {…}` and of every `NAME.update({…})`."""
    yield from _keys_assigned(tree, name)
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute) or not node.args:
            continue
        owner = node.func.value
        if node.func.attr == "update" and isinstance(owner, ast.Name) and owner.id == name:
            yield from _keys(node.args[0])


def _assigned(tree: ast.Module, name: str) -> Iterator[ast.expr]:
    for node in tree.body:
        if isinstance(node, ast.Assign) and any(
            isinstance(target, ast.Name) and target.id == name for target in node.targets
        ):
            yield node.value
        if (
            isinstance(node, ast.AnnAssign)
            and node.value is not None
            and isinstance(node.target, ast.Name)
            and node.target.id == name
        ):
            yield node.value


def _keys(value: ast.expr) -> Iterator[str]:
    """Of a dictionary display, or of `dict(KEY=…)`."""
    if isinstance(value, ast.Dict):
        for key in value.keys:
            if isinstance(key, ast.Constant) and isinstance(key.value, str):
                yield key.value
    elif isinstance(value, ast.Call):
        yield from (keyword.arg for keyword in value.keywords if keyword.arg)
