"""A model's config.json: sizes under one name each, and how the model's layers attend.

Hugging Face configs leave out what equals their class's defaults, nest the language model of a vision model,
and call the same size by several names. Knows no files besides config.json, and needs no engine library.

A KV cache can be predicted only where every layer keeps keys and values of the whole context. What isn't
known to be of that kind counts as unknown: a wrong guess is off by 2 to 70 times.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from core.errors import InputError
from core.i18n import N_, Text

MODEL_UNREADABLE = "model-unreadable"

_INNER = ("text_config", "llm_config", "language_config")
_ALIASES: Mapping[str, tuple[str, ...]] = {
    "num_hidden_layers": ("num_layers", "n_layer", "n_layers"),
    "hidden_size": ("n_embd", "d_model"),
    "num_attention_heads": ("n_head", "n_heads"),
    "num_key_value_heads": ("num_kv_heads", "n_head_kv", "multi_query_group_num"),
    "head_dim": ("attention_head_dim", "kv_channels"),
    "intermediate_size": ("ffn_hidden_size", "n_inner", "ffn_dim"),
    "vocab_size": ("padded_vocab_size",),
    "max_position_embeddings": ("n_positions", "seq_length", "max_seq_len"),
}
_LLAMA = {
    "num_hidden_layers": 32,
    "hidden_size": 4096,
    "num_attention_heads": 32,
    "intermediate_size": 11_008,
    "vocab_size": 32_000,
    "max_position_embeddings": 2048,
}
_QWEN2 = {
    "num_hidden_layers": 32,
    "hidden_size": 4096,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "intermediate_size": 22_016,
    "vocab_size": 151_936,
    "max_position_embeddings": 32_768,
    "use_sliding_window": False,
    "max_window_layers": 28,
}
_MISTRAL = {
    "num_hidden_layers": 32,
    "hidden_size": 4096,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "intermediate_size": 14_336,
    "vocab_size": 32_000,
    "max_position_embeddings": 131_072,
}
_GEMMA2 = {
    "num_hidden_layers": 26,
    "hidden_size": 2304,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "intermediate_size": 9216,
    "vocab_size": 256_000,
    "tie_word_embeddings": True,
    "max_position_embeddings": 8192,
    "sliding_window": 4096,
}
_QWEN2_VL = {
    **_QWEN2,
    "num_hidden_layers": 80,
    "hidden_size": 8192,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "intermediate_size": 29_568,
    "vocab_size": 152_064,
    "max_window_layers": 80,
}
CLASS_DEFAULTS: Mapping[str, Mapping[str, int | bool]] = {
    "llama": _LLAMA,
    "mistral": {**_MISTRAL, "sliding_window": 4096},
    "mixtral": _MISTRAL,
    "qwen2": _QWEN2,
    "qwen3": {**_QWEN2, "head_dim": 128},
    "qwen2_moe": {
        **_QWEN2,
        "num_hidden_layers": 24,
        "hidden_size": 2048,
        "num_attention_heads": 16,
        "num_key_value_heads": 16,
        "intermediate_size": 5632,
    },
    "qwen3_moe": {
        **_QWEN2,
        "num_hidden_layers": 24,
        "hidden_size": 2048,
        "num_key_value_heads": 4,
        "intermediate_size": 6144,
    },
    "qwen2_vl_text": _QWEN2_VL,
    "qwen2_5_vl_text": _QWEN2_VL,
    "qwen3_vl_text": {**_QWEN2, "head_dim": 128, "max_position_embeddings": 128_000},
    "internlm3": {
        **_LLAMA,
        "num_hidden_layers": 48,
        "num_key_value_heads": 2,
        "head_dim": 128,
        "intermediate_size": 10_240,
        "vocab_size": 128_512,
        "max_position_embeddings": 32_768,
    },
    "gemma": {
        "num_hidden_layers": 28,
        "hidden_size": 3072,
        "num_attention_heads": 16,
        "num_key_value_heads": 16,
        "head_dim": 256,
        "intermediate_size": 24_576,
        "vocab_size": 256_000,
        "tie_word_embeddings": True,
        "max_position_embeddings": 8192,
    },
    "gemma2": _GEMMA2,
    "gemma3_text": {**_GEMMA2, "vocab_size": 262_208, "max_position_embeddings": 131_072},
    "phi3": {
        **_LLAMA,
        "hidden_size": 3072,
        "num_key_value_heads": 32,
        "intermediate_size": 8192,
        "vocab_size": 32_064,
        "max_position_embeddings": 4096,
    },
    "gpt_oss": {
        "num_hidden_layers": 36,
        "hidden_size": 2880,
        "num_attention_heads": 64,
        "num_key_value_heads": 8,
        "head_dim": 64,
        "intermediate_size": 2880,
        "vocab_size": 201_088,
        "max_position_embeddings": 131_072,
        "sliding_window": 128,
    },
}
"""What transformers' config classes fill in, by `model_type`."""
_NESTED_TYPES: Mapping[str, str] = {
    "llava": "llama",
    "llava_next": "llama",
    "gemma3": "gemma3_text",
    "qwen2_vl": "qwen2_vl_text",
    "qwen2_5_vl": "qwen2_5_vl_text",
    "qwen3_vl": "qwen3_vl_text",
    "internvl": "qwen2",
    "mllama": "mllama_text_model",
}
"""The language model of a vision model whose file doesn't name its type."""
_FFN_OF_FOUR_WIDTHS = frozenset({"gpt2", "gpt_bigcode", "falcon", "RefinedWebModel", "bloom", "gptj", "mpt"})


class ModelConfig:
    """The values of one config.json; wrong types raise InputError (`model-unreadable`) naming the key."""

    def __init__(self, values: Mapping[str, Any], place: str) -> None:
        """`place` says whose config it is in error messages: a folder, a hub id, or `the pasted config`."""
        self.values = values
        self.place = place
        self.text = text_config(values)
        model_type = self.text.get("model_type")
        if not isinstance(model_type, str) or (self.text is not values and model_type == self.model_type):
            model_type = _NESTED_TYPES.get(self.model_type, self.model_type)
        self.text_type: str = model_type
        """The language model's own type, such as `llama` in a LLaVA."""
        self._defaults = CLASS_DEFAULTS.get(_NESTED_TYPES.get(self.text_type, self.text_type), {})

    @property
    def model_type(self) -> str:
        value = self.values.get("model_type")
        return value if isinstance(value, str) else "unknown"

    @property
    def architecture(self) -> str:
        """The first of `architectures`, such as `LlamaForCausalLM`."""
        names = self.values.get("architectures")
        names = [names] if isinstance(names, str) else names
        first = next(iter(names), None) if isinstance(names, list) else None
        return first if isinstance(first, str) else "unknown"

    def get(self, name: str) -> Any:  # noqa: ANN401 - JSON
        """A value of the language model's, under any of its names; None for null and for a missing one."""
        for alias in (name, *_ALIASES.get(name, ())):
            if alias in self.text:
                return self.text[alias]
        return self._defaults.get(name)

    def whole(self, name: str) -> int | None:
        """A whole number greater than 0; None where neither the file nor its class has it."""
        value = self.get(name)
        if value is None or value is False:
            return None
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise self._not_whole(name, value)
        return value or None

    def size(self, name: str) -> int:
        """A whole number that every decoder model has."""
        if (value := self.whole(name)) is not None:
            return value
        if name == "intermediate_size":
            if (experts := self.whole("moe_intermediate_size")) is not None:
                return experts
            if self.text_type in _FFN_OF_FOUR_WIDTHS:
                return 4 * self.size("hidden_size")
        raise self.error(N_("config.json in {path} has no {key}.", path=self.place, key=name))

    def texts(self, name: str) -> tuple[str, ...]:
        """A list of texts; empty for anything else."""
        value = self.get(name)
        return tuple(map(str, value)) if isinstance(value, list) else ()

    @property
    def heads(self) -> int:
        return self.size("num_attention_heads")

    @property
    def kv_heads(self) -> int:
        if self.get("multi_query") is True and not self.get("new_decoder_architecture"):
            return 1
        per_layer = self.get("num_key_value_heads")
        if isinstance(per_layer, list):
            return max((count for count in per_layer if isinstance(count, int)), default=self.heads)
        if per_layer == 0 and per_layer is not False:
            raise self._not_whole("num_key_value_heads", per_layer)
        return self.whole("num_key_value_heads") or self.heads

    @property
    def head_dim(self) -> int:
        return self.whole("head_dim") or self.size("hidden_size") // self.heads

    @property
    def tie_word_embeddings(self) -> bool:
        """As the outermost part of the file says it, which is what loaders go by."""
        for values in (self.values, self.text):
            if isinstance(values.get("tie_word_embeddings"), bool):
                return bool(values["tie_word_embeddings"])
        return bool(self._defaults.get("tie_word_embeddings", False))

    @property
    def dtype(self) -> str | None:
        for values in (self.text, self.values):
            for name in ("dtype", "torch_dtype"):
                if isinstance(values.get(name), str):
                    return str(values[name]).removeprefix("torch.")
        return None

    def _not_whole(self, name: str, value: object) -> InputError:
        return self.error(
            N_(
                "config.json in {path}: {key} should be a whole number, not {value}.",
                path=self.place,
                key=name,
                value=_shortened(value),
            )
        )

    def error(self, message: str) -> InputError:
        return InputError(
            message,
            hint=N_("Use a decoder-only language model in the Hugging Face format."),
            code=MODEL_UNREADABLE,
        )


def read_config(folder: Path) -> ModelConfig:
    """The config.json in a folder. Raises InputError (`model-unreadable`)."""
    return ModelConfig(read_json(folder / "config.json"), str(folder))


def text_config(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The part of a config.json that describes the language model: a nested one, else the whole."""
    for name in _INNER:
        inner = config.get(name)
        if isinstance(inner, dict) and inner:
            return inner
    return config


def read_json(file: Path) -> dict[str, Any]:
    """A JSON object; {} for JSON of another kind. Raises InputError (`model-unreadable`)."""
    try:
        content = json.loads(file.read_text("utf-8-sig"))
    except (OSError, ValueError, RecursionError) as exc:
        raise InputError(
            N_("{file} can't be read: {reason}", file=file, reason=exc),
            hint=N_("A checkpoint is a folder in the Hugging Face format with a config.json."),
            code=MODEL_UNREADABLE,
        ) from exc
    return content if isinstance(content, dict) else {}


def _shortened(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 40 else f"{text[:39]}…"


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


_PLAIN_TYPES = frozenset(
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
    if (window := _limiting_window(config)) is not None:
        return Attention(
            AttentionKind.WINDOW,
            N_("some of its layers look back only {n} tokens (sliding window)", n=window),
        )
    if config.text_type not in _PLAIN_TYPES:
        return Attention(
            AttentionKind.UNKNOWN,
            N_("how models of type {type} attend isn't known to LMDyno", type=config.text_type),
        )
    return Attention(AttentionKind.PLAIN)


def _limiting_window(config: ModelConfig) -> int | None:
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
