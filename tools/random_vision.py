"""Vision models of `random_checkpoint.py`: configs, tensors as on the hub, processor and tokenizer files.

The hub's names matter: LMDeploy takes no others (transformers 5 saves LLaVA's tower as `vision_tower.*`,
which LMDeploy refuses), and its PyTorch engine finds the language model by `text_config.architectures`.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from random_weights import Values, Weight, silent_tokens, write_weights

_CLIP_MEAN = [0.48145466, 0.4578275, 0.40821073]
_CLIP_STD = [0.26862954, 0.26130258, 0.27577711]


@dataclass(frozen=True, slots=True, kw_only=True)
class TextSize:
    """The language model's dimensions."""

    hidden: int
    ffn: int
    layers: int
    heads: int
    kv_heads: int
    vocab: int

    @property
    def kv_width(self) -> int:
        return self.hidden // self.heads * self.kv_heads


@dataclass(frozen=True, slots=True, kw_only=True)
class TowerSize:
    """The vision tower's dimensions."""

    hidden: int
    ffn: int
    layers: int
    heads: int
    patch_px: int = 14
    image_px: int = 0
    """Side of the square that LLaVA's pictures become; Qwen's keep their shape."""


LLAVA = {
    "llava-1.5-7b": (
        TextSize(hidden=4096, ffn=11008, layers=32, heads=32, kv_heads=32, vocab=32064),
        TowerSize(hidden=1024, ffn=4096, layers=24, heads=16, image_px=336),
    ),
    "tiny-llava": (
        TextSize(hidden=256, ffn=512, layers=2, heads=2, kv_heads=2, vocab=32064),
        TowerSize(hidden=64, ffn=128, layers=3, heads=2, image_px=56),
    ),
}
QWEN = {
    "qwen2.5-vl-3b": (
        TextSize(hidden=2048, ffn=11008, layers=36, heads=16, kv_heads=2, vocab=151936),
        TowerSize(hidden=1280, ffn=3420, layers=32, heads=16),
    ),
    "tiny-qwen2.5-vl": (
        TextSize(hidden=256, ffn=512, layers=2, heads=2, kv_heads=1, vocab=49664),
        TowerSize(hidden=160, ffn=320, layers=2, heads=2),
    ),
}
VISION_MODELS = (*LLAVA, *QWEN)

_LLAVA_TOKENS = 32000
"""LLaVA's own vocabulary; its two special tokens and padding follow."""
_MERGE = 2
"""Qwen2.5-VL makes one token of so many patches in each direction."""

_PARTS = (
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] if part['type'] == 'image' %}IMAGE{% endfor %}"
    "{% for part in message['content'] if part['type'] == 'text' %}{{ part['text'] }}{% endfor %}{% endif %}"
)
"""One template serves tokenizer and processor, so it takes plain texts and parts."""
LLAVA_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] != 'system' %}{{ message['role'] | upper }}: {% endif %}"
    + _PARTS.replace("IMAGE", "{{ '<image>\\n' }}")
    + "{% if message['role'] == 'assistant' %}{{ '<|im_end|>' }}{% else %}{{ ' ' }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
QWEN_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' }}"
    + _PARTS.replace("IMAGE", "{{ '<|vision_start|><|image_pad|><|vision_end|>' }}")
    + "{{ '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def write_vision_checkpoint(name: str, tokenizer: Path, out: Path, *, seed: int) -> None:
    """Write everything that transformers and LMDeploy load; `out` exists."""
    if name in LLAVA:
        text, tower = LLAVA[name]
        special = ("<image>", "<pad>")
        ids = _write_tokenizer(tokenizer, out, special, LLAVA_TEMPLATE, pad="<pad>", limit=_LLAVA_TOKENS)
        config, weights = _llava_config(text, tower, ids), _llava_weights(text, tower, silent_tokens(out))
        _write_json(out / "preprocessor_config.json", _clip_processor(tower))
        _write_json(out / "processor_config.json", _llava_processor(tower))
    else:
        text, tower = QWEN[name]
        special = ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
        ids = _write_tokenizer(tokenizer, out, special, QWEN_TEMPLATE, pad="<|endoftext|>")
        config, weights = (
            _qwen_config(text, tower, ids),
            _qwen_weights(text, tower, max(ids.values()) + 1, silent_tokens(out)),
        )
        _write_json(out / "preprocessor_config.json", _qwen_processor(tower))
    _write_json(out / "generation_config.json", {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0})
    write_weights(out / "model.safetensors", weights, seed=seed)
    # Last, so that a folder with a config is complete.
    _write_json(out / "config.json", config)


def _write_tokenizer(
    source: Path, out: Path, special: tuple[str, ...], template: str, *, pad: str, limit: int | None = None
) -> dict[str, int]:
    """The source's tokenizer with further special tokens after its first `limit` ones; returns their ids."""
    tokenizer = json.loads((source / "tokenizer.json").read_text("utf-8"))
    model = tokenizer["model"]
    model["vocab"] = {
        token: number for token, number in model["vocab"].items() if limit is None or number < limit
    }
    # A merge needs both its parts and what they make.
    model["merges"] = [
        merge
        for merge in model["merges"]
        if all(token in model["vocab"] for token in (*merge, "".join(merge)))
    ]
    first = max(model["vocab"].values()) + 1
    ids = {token: first + place for place, token in enumerate(special)}
    tokenizer["added_tokens"] += [
        {
            "id": number,
            "content": token,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": True,
        }
        for token, number in ids.items()
    ]
    (out / "tokenizer.json").write_text(json.dumps(tokenizer, ensure_ascii=False), "utf-8")
    facts = json.loads((source / "tokenizer_config.json").read_text("utf-8"))
    _write_json(out / "tokenizer_config.json", facts | {"pad_token": pad, "model_max_length": 32768})
    (out / "chat_template.jinja").write_text(template, "utf-8")
    return ids


def _write_json(path: Path, document: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(document, indent=2), "utf-8")


# LLaVA-1.5


def _llava_config(text: TextSize, tower: TowerSize, ids: Mapping[str, int]) -> dict[str, Any]:
    return {
        "architectures": ["LlavaForConditionalGeneration"],
        "model_type": "llava",
        "dtype": "float16",
        "image_token_index": ids["<image>"],
        # LMDeploy puts this token where the picture's features go, so it must not occur in texts.
        "pad_token_id": ids["<pad>"],
        "image_seq_length": (tower.image_px // tower.patch_px) ** 2,
        "projector_hidden_act": "gelu",
        "vision_feature_layer": -2,
        "vision_feature_select_strategy": "default",
        "tie_word_embeddings": False,
        "vocab_size": text.vocab,
        "text_config": {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            **_llama_sizes(text),
            "max_position_embeddings": 4096,
            "rms_norm_eps": 1e-5,
            "rope_theta": 10000.0,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "dtype": "float16",
        },
        "vision_config": {
            "model_type": "clip_vision_model",
            "hidden_size": tower.hidden,
            "intermediate_size": tower.ffn,
            "num_hidden_layers": tower.layers,
            "num_attention_heads": tower.heads,
            "image_size": tower.image_px,
            "patch_size": tower.patch_px,
            "projection_dim": 768,
            "vocab_size": 32000,
        },
    }


def _llama_sizes(text: TextSize) -> dict[str, Any]:
    return {
        "hidden_size": text.hidden,
        "intermediate_size": text.ffn,
        "num_hidden_layers": text.layers,
        "num_attention_heads": text.heads,
        "num_key_value_heads": text.kv_heads,
        "vocab_size": text.vocab,
        "hidden_act": "silu",
        "tie_word_embeddings": False,
    }


def _clip_processor(tower: TowerSize) -> dict[str, Any]:
    side = tower.image_px
    return {
        "image_processor_type": "CLIPImageProcessor",
        "processor_class": "LlavaProcessor",
        "do_resize": True,
        "size": {"shortest_edge": side},
        "resample": 3,
        "do_center_crop": True,
        "crop_size": {"height": side, "width": side},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": _CLIP_MEAN,
        "image_std": _CLIP_STD,
        "do_convert_rgb": True,
    }


def _llava_processor(tower: TowerSize) -> dict[str, Any]:
    return {
        "processor_class": "LlavaProcessor",
        "image_token": "<image>",
        "patch_size": tower.patch_px,
        "vision_feature_select_strategy": "default",
        "num_additional_image_tokens": 1,
    }


def _llava_weights(text: TextSize, tower: TowerSize, silent: tuple[int, ...]) -> dict[str, Weight]:
    pre, hidden = "vision_tower.vision_model", tower.hidden
    found = {
        f"{pre}.embeddings.class_embedding": Weight((hidden,)),
        f"{pre}.embeddings.patch_embedding.weight": Weight((hidden, 3, tower.patch_px, tower.patch_px)),
        f"{pre}.embeddings.position_embedding.weight": Weight(
            ((tower.image_px // tower.patch_px) ** 2 + 1, hidden)
        ),
        **_norm(f"{pre}.pre_layrnorm", hidden),
        **_norm(f"{pre}.post_layernorm", hidden),
    }
    for number in range(tower.layers):
        layer = f"{pre}.encoder.layers.{number}"
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            found |= _linear(f"{layer}.self_attn.{name}", hidden, hidden)
        found |= _linear(f"{layer}.mlp.fc1", hidden, tower.ffn)
        found |= _linear(f"{layer}.mlp.fc2", tower.ffn, hidden)
        found |= _norm(f"{layer}.layer_norm1", hidden) | _norm(f"{layer}.layer_norm2", hidden)
    found |= _linear("multi_modal_projector.linear_1", hidden, text.hidden)
    found |= _linear("multi_modal_projector.linear_2", text.hidden, text.hidden)
    found |= _decoder("language_model.model", text, bias=False)
    found["language_model.lm_head.weight"] = Weight(
        (text.vocab, text.hidden), known_rows=_LLAVA_TOKENS, silent_rows=silent
    )
    return found


# Qwen2.5-VL


def _qwen_config(text: TextSize, tower: TowerSize, ids: Mapping[str, int]) -> dict[str, Any]:
    every = 8 if tower.layers >= 8 else 2
    return {
        "architectures": ["Qwen2_5_VLForConditionalGeneration"],
        "model_type": "qwen2_5_vl",
        **_llama_sizes(text),
        "tie_word_embeddings": True,
        "max_position_embeddings": 128000,
        "max_window_layers": 70,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1_000_000.0,
        "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]},
        "sliding_window": 32768,
        "use_sliding_window": False,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "dtype": "float16",
        "vision_start_token_id": ids["<|vision_start|>"],
        "vision_end_token_id": ids["<|vision_end|>"],
        "image_token_id": ids["<|image_pad|>"],
        "video_token_id": ids["<|video_pad|>"],
        "vision_config": {
            "model_type": "qwen2_5_vl",
            "depth": tower.layers,
            "hidden_size": tower.hidden,
            "intermediate_size": tower.ffn,
            "num_heads": tower.heads,
            "hidden_act": "silu",
            "in_chans": 3,
            "out_hidden_size": text.hidden,
            "patch_size": tower.patch_px,
            "spatial_patch_size": tower.patch_px,
            "spatial_merge_size": _MERGE,
            "temporal_patch_size": 2,
            "tokens_per_second": 2,
            "window_size": 112,
            "fullatt_block_indexes": list(range(every - 1, tower.layers, every)),
        },
    }


def _qwen_processor(tower: TowerSize) -> dict[str, Any]:
    return {
        "image_processor_type": "Qwen2VLImageProcessor",
        "processor_class": "Qwen2_5_VLProcessor",
        "min_pixels": 3136,
        "max_pixels": 12845056,
        "patch_size": tower.patch_px,
        "temporal_patch_size": 2,
        "merge_size": _MERGE,
        "image_mean": _CLIP_MEAN,
        "image_std": _CLIP_STD,
    }


def _qwen_weights(
    text: TextSize, tower: TowerSize, tokens: int, silent: tuple[int, ...]
) -> dict[str, Weight]:
    hidden, merged = tower.hidden, tower.hidden * _MERGE**2
    found = {
        "visual.patch_embed.proj.weight": Weight((hidden, 3, 2, tower.patch_px, tower.patch_px)),
        "visual.merger.ln_q.weight": Weight((hidden,), Values.ONES),
        **_linear("visual.merger.mlp.0", merged, merged),
        **_linear("visual.merger.mlp.2", merged, text.hidden),
    }
    for number in range(tower.layers):
        block = f"visual.blocks.{number}"
        found |= _linear(f"{block}.attn.qkv", hidden, 3 * hidden) | _linear(
            f"{block}.attn.proj", hidden, hidden
        )
        found |= _linear(f"{block}.mlp.gate_proj", hidden, tower.ffn)
        found |= _linear(f"{block}.mlp.up_proj", hidden, tower.ffn)
        found |= _linear(f"{block}.mlp.down_proj", tower.ffn, hidden)
        for norm in ("norm1", "norm2"):
            found[f"{block}.{norm}.weight"] = Weight((hidden,), Values.ONES)
    # Input and output embeddings are one.
    found |= _decoder("model", text, bias=True)
    found["model.embed_tokens.weight"] = Weight(
        (text.vocab, text.hidden), known_rows=tokens, silent_rows=silent
    )
    return found


# Parts of both


def _decoder(prefix: str, text: TextSize, *, bias: bool) -> dict[str, Weight]:
    hidden = text.hidden
    found = {
        f"{prefix}.embed_tokens.weight": Weight((text.vocab, hidden)),
        f"{prefix}.norm.weight": Weight((hidden,), Values.ONES),
    }
    for number in range(text.layers):
        layer = f"{prefix}.layers.{number}"
        for norm in ("input_layernorm", "post_attention_layernorm"):
            found[f"{layer}.{norm}.weight"] = Weight((hidden,), Values.ONES)
        for name, width in (("q_proj", hidden), ("k_proj", text.kv_width), ("v_proj", text.kv_width)):
            found |= _linear(f"{layer}.self_attn.{name}", hidden, width, bias=bias)
        found |= _linear(f"{layer}.self_attn.o_proj", hidden, hidden, bias=False)
        for name in ("gate_proj", "up_proj"):
            found |= _linear(f"{layer}.mlp.{name}", hidden, text.ffn, bias=False)
        found |= _linear(f"{layer}.mlp.down_proj", text.ffn, hidden, bias=False)
    return found


def _linear(name: str, inputs: int, outputs: int, *, bias: bool = True) -> dict[str, Weight]:
    found = {f"{name}.weight": Weight((outputs, inputs))}
    if bias:
        found[f"{name}.bias"] = Weight((outputs,), Values.ZEROS)
    return found


def _norm(name: str, width: int) -> dict[str, Weight]:
    return {f"{name}.weight": Weight((width,), Values.ONES), f"{name}.bias": Weight((width,), Values.ZEROS)}
