"""The attention of a model's layers, as far as it decides the layout of a KV cache.

A KV cache can be predicted only where every layer keeps keys and values of the whole context. What isn't
known to be of that kind counts as unknown: a wrong guess is off by 2 to 70 times.
"""

from dataclasses import dataclass
from enum import StrEnum

from core.i18n import N_, Text
from core.models.model_config import ModelConfig


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
