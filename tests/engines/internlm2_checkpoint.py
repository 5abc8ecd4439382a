"""A tiny random checkpoint in InternLM2's own layout, and what it computes, in plain torch.

The forward pass follows the layout's definition: `wqkv` holds for each KV group its query heads, then its key
head, then its value head; RoPE rotates the halves of a head against each other; a dynamic NTK scaling raises
the base with the length of the sequence (as in InternLM2's published modelling code).
"""

import io
import json
import math
from pathlib import Path

import sentencepiece
import torch
from safetensors.torch import save_file
from torch.nn.functional import silu, softmax

SIZES = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 16,
    "rms_norm_eps": 1e-5,
    "rope_theta": 1_000_000,
}
CHAT_TOKENS = {"<|plugin|>": 3, "<|action_start|>": 4, "<|im_end|>": 5, "<|im_start|>": 6}
PLACEHOLDERS = [f"[UNUSED_TOKEN_{number}]" for number in range(6)]
VOCAB_SIZE = 480
TEXT = [
    "The capital of France is Paris, and the capital of Spain is Madrid.",
    "def f(x): return x + 1  # numbers such as 3.14 and 1,000",
    "法国的首都是巴黎。西班牙的首都是马德里。",
    "What is the capital of the country in which the river is?",
] * 8


def write(
    folder: Path, *, shards: str = "safetensors", scaling: dict | None = None, **tokenizer: object
) -> dict:
    """Write a checkpoint; returns its weights. `shards` is `safetensors`, `bin` or `two`."""
    folder.mkdir(parents=True, exist_ok=True)
    config = SIZES | {
        "architectures": ["InternLM2ForCausalLM"],
        "auto_map": {"AutoModel": "modeling_internlm2.InternLM2ForCausalLM"},
        "model_type": "internlm2",
        "bias": False,
        "hidden_act": "silu",
        "rope_scaling": scaling,
        "vocab_size": VOCAB_SIZE,
        "tie_word_embeddings": False,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 2,
        "torch_dtype": "float32",
    }
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "modeling_internlm2.py").write_text("raise SystemExit('remote code ran')")
    write_tokenizer(folder, **tokenizer)
    weights = random_weights()
    write_shards(folder, weights, shards)
    return weights


def write_tokenizer(folder: Path, *, config: dict | None = None, **training: object) -> None:
    """Train a SentencePiece model; InternLM2's way of normalising unless told otherwise."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXT),
        model_writer=model,
        minloglevel=2,
        **{
            "model_type": "bpe",
            "vocab_size": VOCAB_SIZE,
            "byte_fallback": True,
            "normalization_rule_name": "identity",
            "remove_extra_whitespaces": False,
            "add_dummy_prefix": False,
            "user_defined_symbols": PLACEHOLDERS,
            "hard_vocab_limit": True,
            "allow_whitespace_only_pieces": True,
        }
        | training,
    )
    (folder / "tokenizer.model").write_bytes(model.getvalue())
    if config is None:
        decoder = {str(number): {"content": token, "special": True} for token, number in CHAT_TOKENS.items()}
        config = {"bos_token": "<s>", "eos_token": "</s>", "added_tokens_decoder": decoder}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def random_weights() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    hidden, ffn = SIZES["hidden_size"], SIZES["intermediate_size"]
    head = hidden // SIZES["num_attention_heads"]
    rows = (SIZES["num_attention_heads"] + 2 * SIZES["num_key_value_heads"]) * head

    def matrix(*shape: int) -> torch.Tensor:
        return torch.randn(*shape) / math.sqrt(shape[-1])

    weights = {
        "model.tok_embeddings.weight": torch.randn(VOCAB_SIZE, hidden),
        "model.norm.weight": torch.rand(hidden) + 0.5,
        "output.weight": matrix(VOCAB_SIZE, hidden),
    }
    for layer in range(SIZES["num_hidden_layers"]):
        prefix = f"model.layers.{layer}"
        weights |= {
            f"{prefix}.attention.wqkv.weight": 2 * matrix(rows, hidden),
            f"{prefix}.attention.wo.weight": matrix(hidden, hidden),
            f"{prefix}.attention.rotary_emb.inv_freq": torch.zeros(head // 2),
            f"{prefix}.feed_forward.w1.weight": matrix(ffn, hidden),
            f"{prefix}.feed_forward.w3.weight": matrix(ffn, hidden),
            f"{prefix}.feed_forward.w2.weight": matrix(hidden, ffn),
            f"{prefix}.attention_norm.weight": torch.rand(hidden) + 0.5,
            f"{prefix}.ffn_norm.weight": torch.rand(hidden) + 0.5,
        }
    return weights


def logits(weights: dict[str, torch.Tensor], ids: torch.Tensor, scaling: dict | None = None) -> torch.Tensor:
    """What InternLM2 computes for one sequence of token ids."""
    x = weights["model.tok_embeddings.weight"][ids]
    cos, sin = _rotation(len(ids), scaling)
    for layer in range(SIZES["num_hidden_layers"]):

        def weight(name: str, prefix: str = f"model.layers.{layer}") -> torch.Tensor:
            return weights[f"{prefix}.{name}.weight"]

        x = x + _attention(_norm(x, weight("attention_norm")), weight, cos, sin)
        y = _norm(x, weight("ffn_norm"))
        gated = silu(y @ weight("feed_forward.w1").T) * (y @ weight("feed_forward.w3").T)
        x = x + gated @ weight("feed_forward.w2").T
    return _norm(x, weights["model.norm.weight"]) @ weights["output.weight"].T


def _attention(x, weight, cos, sin):
    heads, groups = SIZES["num_attention_heads"], SIZES["num_key_value_heads"]
    per_group, head = heads // groups, SIZES["hidden_size"] // heads
    fused = (x @ weight("attention.wqkv").T).view(len(x), groups, per_group + 2, head)  # (T, G, Q+K+V, D)
    causal = torch.full((len(x), len(x)), -torch.inf).triu(1)
    answers = []
    for group in range(groups):
        key = _rotated(fused[:, group, -2], cos, sin)
        value = fused[:, group, -1]
        for query in range(per_group):
            q = _rotated(fused[:, group, query], cos, sin)
            answers.append(softmax(q @ key.T / math.sqrt(head) + causal, dim=-1) @ value)
    return torch.cat(answers, dim=-1) @ weight("attention.wo").T


def _norm(x, weight):
    return weight * x / (x.pow(2).mean(-1, keepdim=True) + SIZES["rms_norm_eps"]).sqrt()


def _rotation(length: int, scaling: dict | None) -> tuple[torch.Tensor, torch.Tensor]:
    head = SIZES["hidden_size"] // SIZES["num_attention_heads"]
    base, limit = float(SIZES["rope_theta"]), SIZES["max_position_embeddings"]
    position = torch.arange(length).float()
    if scaling and scaling["type"] == "dynamic" and length > limit:
        factor = scaling["factor"]
        base *= (factor * length / limit - (factor - 1)) ** (head / (head - 2))
    if scaling and scaling["type"] == "linear":
        position = position / scaling["factor"]
    angle = torch.outer(position, base ** (-torch.arange(0, head, 2).float() / head))
    angle = torch.cat((angle, angle), dim=-1)
    return angle.cos(), angle.sin()


def _rotated(x, cos, sin):
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin


def write_shards(folder: Path, weights: dict, shards: str) -> None:
    if shards == "safetensors":
        save_file(weights, folder / "model.safetensors")
        return
    if shards == "bin":
        torch.save(weights, folder / "pytorch_model.bin")
        return
    weight_map = {}
    for number in range(2):
        file = f"model-0000{number + 1}-of-00002.safetensors"
        part = {name: tensor for place, (name, tensor) in enumerate(weights.items()) if place % 2 == number}
        save_file(part, folder / file)
        weight_map |= dict.fromkeys(part, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
