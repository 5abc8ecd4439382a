"""A child process: writes an InternLM2 checkpoint in Llama's layout, shard by shard.

The one matrix `wqkv` holds, for each KV group, the rows of its query heads, then of its key head, then of its
value head; Llama has three matrices. Everything else is a new name. RoPE is the same in both (halves of a
head rotated against each other), so nothing is permuted.

Imports torch and transformers, so it runs by itself:
`python -m core.models.internlm2.to_llama SOURCE FOLDER`. No code of the checkpoint is run. Standard output is
progress, a line each; the exit code is 0 if FOLDER is complete.
"""

import json
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from core.i18n import N_
from core.models.child_stages import say
from core.models.internlm2.convert import Plan, plan, rope_type
from core.models.internlm2.tokenizer import build_tokenizer

_NAMES = {
    "model.tok_embeddings.weight": "model.embed_tokens.weight",
    "model.norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
_LAYER_NAMES = {
    "attention.wo": "self_attn.o_proj",
    "feed_forward.w1": "mlp.gate_proj",
    "feed_forward.w3": "mlp.up_proj",
    "feed_forward.w2": "mlp.down_proj",
    "attention_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
}


def convert(source: Path, folder: Path) -> None:
    """Write config, weights, tokenizer and generation config of the Llama form of `source`."""
    checkpoint = plan(source)
    say(N_("Rebuilding the tokenizer"))
    tokenizer = build_tokenizer(source)
    config = llama_config(checkpoint.config, tokenizer, source)
    config.save_pretrained(folder)
    GenerationConfig(
        bos_token_id=config.bos_token_id,
        eos_token_id=config.eos_token_id,
        pad_token_id=config.pad_token_id,
    ).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    convert_weights(checkpoint, config, folder)


def llama_config(config: Mapping[str, Any], tokenizer: PreTrainedTokenizerFast, source: Path) -> LlamaConfig:
    """The same sizes and RoPE; an answer ends where the checkpoint's or its chat form's would."""
    rope: dict[str, Any] = {
        "rope_type": rope_type(dict(config)),
        "rope_theta": float(config.get("rope_theta", 10_000)),
    }
    if rope["rope_type"] != "default":
        rope["factor"] = float(config["rope_scaling"]["factor"])
    heads = config["num_attention_heads"]
    return LlamaConfig(
        architectures=["LlamaForCausalLM"],
        vocab_size=config["vocab_size"],
        hidden_size=config["hidden_size"],
        intermediate_size=config["intermediate_size"],
        num_hidden_layers=config["num_hidden_layers"],
        num_attention_heads=heads,
        num_key_value_heads=config.get("num_key_value_heads") or heads,
        head_dim=config["hidden_size"] // heads,
        hidden_act=config["hidden_act"],
        max_position_embeddings=config["max_position_embeddings"],
        rms_norm_eps=config["rms_norm_eps"],
        rope_parameters=rope,
        tie_word_embeddings=config.get("tie_word_embeddings", False),
        bos_token_id=config.get("bos_token_id", 1),
        eos_token_id=_ends(config, tokenizer, source),
        pad_token_id=config.get("pad_token_id", 2),
        dtype=config.get("torch_dtype") or config.get("dtype") or "bfloat16",
    )


def _ends(config: Mapping[str, Any], tokenizer: PreTrainedTokenizerFast, source: Path) -> list[int]:
    ids: set[int] = set()
    for given in (
        config.get("eos_token_id", 2),
        _json(source / "generation_config.json").get("eos_token_id"),
    ):
        ids |= {given} if isinstance(given, int) else set(given or ())
    if (end := tokenizer.get_vocab().get("<|im_end|>")) is not None:
        ids.add(end)
    return sorted(ids)


def convert_weights(checkpoint: Plan, config: LlamaConfig, folder: Path) -> None:
    """Write one Llama shard for each of the source's; at no time more than one is in memory."""
    with torch.device("meta"):
        missing = {name: t.shape for name, t in LlamaForCausalLM(config).state_dict().items()}
    if config.tie_word_embeddings:
        missing.pop("lm_head.weight", None)
    weight_map: dict[str, str] = {}
    total_bytes = 0
    count = len(checkpoint.shards)
    for number, shard in enumerate(checkpoint.shards, start=1):
        say(N_("Converting shard {number} of {count}", number=number, count=count))
        file = f"model-{number:05}-of-{count:05}.safetensors" if count > 1 else "model.safetensors"
        tensors = {
            name: tensor.contiguous()
            for old_name, old in _read(shard)
            for name, tensor in renamed(old_name, old, config)
        }
        for name, tensor in tensors.items():
            if missing.pop(name, None) != tensor.shape:
                sys.exit(f"{shard.name}: {name} is not expected with the shape {tuple(tensor.shape)}")
            weight_map[name] = file
            total_bytes += tensor.nbytes
        save_file(tensors, folder / file, metadata={"format": "pt"})
    if missing:
        sys.exit(f"The checkpoint has no {min(missing)}")
    if count > 1:
        index = {"metadata": {"total_size": total_bytes}, "weight_map": weight_map}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2), "utf-8")


def renamed(name: str, tensor: torch.Tensor, config: LlamaConfig) -> Iterator[tuple[str, torch.Tensor]]:
    """The Llama tensors that one InternLM2 tensor becomes."""
    if name.endswith("rotary_emb.inv_freq"):  # computed, and stored by old versions only
        return
    if name == "output.weight" and config.tie_word_embeddings:
        return
    if name in _NAMES:
        yield _NAMES[name], tensor
        return
    layer = re.fullmatch(r"(model\.layers\.\d+)\.(.+)\.weight", name)
    if layer is None:
        sys.exit(f"{name} is no tensor of InternLM2")
    prefix, part = layer.groups()
    if part == "attention.wqkv":
        for letter, matrix in zip("qkv", split_wqkv(tensor, config), strict=True):
            yield f"{prefix}.self_attn.{letter}_proj.weight", matrix
    elif part in _LAYER_NAMES:
        yield f"{prefix}.{_LAYER_NAMES[part]}.weight", tensor
    else:
        sys.exit(f"{name} is no tensor of InternLM2")


def split_wqkv(wqkv: torch.Tensor, config: LlamaConfig) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Query, key and value projections out of the fused one."""
    queries = config.num_attention_heads // config.num_key_value_heads
    groups = wqkv.unflatten(0, (config.num_key_value_heads, queries + 2, config.head_dim))
    q, k, v = groups.split([queries, 1, 1], dim=1)
    return q.flatten(0, 2), k.flatten(0, 2), v.flatten(0, 2)


def _read(shard: Path) -> Iterator[tuple[str, torch.Tensor]]:
    if shard.suffix == ".safetensors":
        with safe_open(shard, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 - not a dict
                yield name, tensors.get_tensor(name)
    else:
        # A pickle may hold any program; weights_only lets nothing but tensors through.
        yield from torch.load(shard, map_location="cpu", weights_only=True, mmap=True).items()


def _json(file: Path) -> dict[str, Any]:
    return dict(json.loads(file.read_text("utf-8"))) if file.is_file() else {}


if __name__ == "__main__":
    convert(Path(sys.argv[1]), Path(sys.argv[2]))
