"""Parameters of a model counted from its config.json alone, for models whose weights aren't here.

Counts decoder models with gated FFNs, dense or as a mixture of experts, and the vision transformers beside
them. Biases and small parts (a few thousandths) are left out, so a count from weight files is preferred.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from core.models.model_config import ModelConfig


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
