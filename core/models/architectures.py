"""Architectures of models: how their layers attend, and which of them the installed LMDeploy serves.

A KV cache can be predicted only where every layer keeps keys and values of the whole context. What isn't
known to be of that kind counts as unknown: a wrong guess is off by 2 to 70 times.

What LMDeploy serves stands in its own tables: `SUPPORTED_ARCHS` in `turbomind/supported_models.py` and
`MODULE_MAP` in `pytorch/models/module_map.py`. The files are read, not imported: importing LMDeploy takes ten
seconds and half a gigabyte.
"""

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

from core.i18n import N_, Text
from core.models.model_config import ModelConfig

_TIMEOUT_S = 30
_LOCATE = "from importlib.util import find_spec; print(find_spec('lmdeploy').origin)"


class AttentionKind(StrEnum):
    PLAIN = "plain"
    """Every layer keeps keys and values of each token: MHA, GQA, or MQA."""
    LATENT = "latent"
    WINDOW = "window"
    HYBRID = "hybrid"
    CROSS = "cross"
    UNEVEN = "uneven"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Attention:
    """The kind, and why it is not plain."""

    kind: AttentionKind
    reason: Text | None = None

    @property
    def is_plain(self) -> bool:
        return self.kind is AttentionKind.PLAIN


PLAIN_TYPES = frozenset(
    {
        "llama",
        "qwen2",
        "qwen2_moe",
        "qwen2_vl",
        "qwen2_vl_text",
        "qwen2_5_vl",
        "qwen2_5_vl_text",
        "qwen3",
        "qwen3_moe",
        "qwen3_vl_text",
        "qwen3_vl_moe_text",
        "internlm2",
        "internlm3",
        "mistral",
        "mixtral",
        "gemma",
        "glm4",
        "glm4_moe",
        "granite",
        "olmo2",
        "phi3",
        "smollm3",
        "stablelm",
        "starcoder2",
    }
)
"""Language models' types whose layers are plain unless their config names a key of another kind."""
_HYBRID_KEYS = (
    "full_attention_interval",
    "hybrid_override_pattern",
    "hybrid_layer_pattern",
    "attn_layer_period",
    "attn_layer_indices",
    "attn_layer_idx",
    "full_attn_idxs",
    "layers_block_type",
    "block_types",
    "mamba_d_state",
    "mamba_num_heads",
    "ssm_state_size",
    "ssm_cfg",
    "linear_attn_config",
    "linear_num_value_heads",
    "lru_width",
)
_CROSS_KEYS = ("cross_attention_layers", "cross_attn_layers", "add_cross_attention")
_FULL = frozenset({"full_attention", "attention", "full", "global_attention", "1"})
_LATENT = Attention(AttentionKind.LATENT, N_("it caches a compressed form of keys and values (MLA)"))
_HYBRID = Attention(
    AttentionKind.HYBRID, N_("some of its layers keep a fixed-size state instead of keys and values")
)
_CROSS = Attention(AttentionKind.CROSS, N_("some of its layers attend to an image instead of the text"))
_UNEVEN = Attention(AttentionKind.UNEVEN, N_("its layers differ in the number of their KV heads"))
_CHUNKED = Attention(AttentionKind.WINDOW, N_("some of its layers see only a part of the context"))


def attention_of(config: ModelConfig) -> Attention:
    """Return how the language model attends; raises InputError for values of a wrong type."""
    if config.get("kv_lora_rank"):
        return _LATENT
    if any(config.get(key) for key in _CROSS_KEYS):
        return _CROSS
    if _is_hybrid(config):
        return _HYBRID
    if _is_uneven(config):
        return _UNEVEN
    if config.get("attention_chunk_size") or any("chunk" in kind for kind in config.texts("layer_types")):
        return _CHUNKED
    if (window := limiting_window(config)) is not None:
        return Attention(
            AttentionKind.WINDOW,
            N_("some of its layers look back only {n} tokens (sliding window)", n=window),
        )
    if config.text_type not in PLAIN_TYPES:
        return Attention(
            AttentionKind.UNKNOWN,
            N_("how models of type {type} attend isn't known to LMDyno", type=config.text_type),
        )
    return Attention(AttentionKind.PLAIN)


def limiting_window(config: ModelConfig) -> int | None:
    """Tokens that some layer looks back, where that is less than the whole context; None without a limit."""
    window = config.whole("sliding_window")
    if window is None or config.get("use_sliding_window") is False:
        return None
    context = config.whole("max_position_embeddings")
    if context is not None and window >= context:
        return None
    kinds = config.texts("layer_types")
    if kinds and not any("sliding" in kind for kind in kinds):
        return None
    if not kinds and config.get("use_sliding_window") is True:
        # The first `max_window_layers` layers see everything.
        full = config.whole("max_window_layers")
        if full is not None and full >= config.size("num_hidden_layers"):
            return None
    return window


def _is_hybrid(config: ModelConfig) -> bool:
    kinds = config.texts("layer_types") + config.texts("attn_type_list")
    if any(kind not in _FULL and "attention" not in kind for kind in kinds):
        return True
    if any("linear" in kind for kind in kinds):
        return True
    interval = config.get("full_attention_interval")
    return any(
        config.get(key) for key in _HYBRID_KEYS if key != "full_attention_interval"
    ) or interval not in (
        None,
        0,
        1,
    )


def _is_uneven(config: ModelConfig) -> bool:
    per_layer = config.get("num_key_value_heads_per_layer") or config.get("num_key_value_heads")
    if isinstance(per_layer, list):
        return len(set(map(str, per_layer))) > 1
    return bool(config.get("block_configs"))


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
