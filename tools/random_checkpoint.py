"""Writes a Llama checkpoint with random weights in a known model's dimensions, fp16 or W4A16 (AWQ).

Speed and memory don't depend on the values, so a machine without a model hub can measure any size:

    python tools/random_checkpoint.py internlm2-1.8b --tokenizer MODEL_DIR --out /tmp/internlm2-1.8b [--awq]

The dimensions are those of the published config.json files of internlm/internlm2-chat-1_8b and -7b.
The answers are noise.
"""

import argparse
import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file

GROUP = 128
DIMENSIONS = {
    "internlm2-1.8b": {"hidden": 2048, "ffn": 8192, "layers": 24, "heads": 16, "kv_heads": 8, "vocab": 92544},
    "internlm2-7b": {"hidden": 4096, "ffn": 14336, "layers": 32, "heads": 32, "kv_heads": 8, "vocab": 92544},
    "tiny": {"hidden": 256, "ffn": 512, "layers": 2, "heads": 2, "kv_heads": 2, "vocab": 49152},
}


def config(dims: dict[str, int], *, awq: bool) -> dict[str, object]:
    fields: dict[str, object] = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": dims["hidden"],
        "intermediate_size": dims["ffn"],
        "num_hidden_layers": dims["layers"],
        "num_attention_heads": dims["heads"],
        "num_key_value_heads": dims["kv_heads"],
        "head_dim": dims["hidden"] // dims["heads"],
        "vocab_size": dims["vocab"],
        "max_position_embeddings": 32768,
        "rms_norm_eps": 1e-5,
        "rope_theta": 1_000_000.0,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1_000_000.0},
        "hidden_act": "silu",
        "tie_word_embeddings": False,
        "attention_bias": False,
        "mlp_bias": False,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "dtype": "float16",
    }
    if awq:
        fields["quantization_config"] = {
            "quant_method": "awq",
            "version": "gemm",
            "bits": 4,
            "group_size": GROUP,
            "zero_point": True,
        }
    return fields


def linears(dims: dict[str, int]) -> dict[str, tuple[int, int]]:
    """(in, out) features of each linear of a layer."""
    hidden, ffn = dims["hidden"], dims["ffn"]
    kv = hidden // dims["heads"] * dims["kv_heads"]
    return {
        "self_attn.q_proj": (hidden, hidden),
        "self_attn.k_proj": (hidden, kv),
        "self_attn.v_proj": (hidden, kv),
        "self_attn.o_proj": (hidden, hidden),
        "mlp.gate_proj": (hidden, ffn),
        "mlp.up_proj": (hidden, ffn),
        "mlp.down_proj": (ffn, hidden),
    }


def tensors(dims: dict[str, int], *, awq: bool, device: str, known_tokens: int) -> dict[str, torch.Tensor]:
    """All weights. Ids that the tokenizer doesn't know get a zero row, so that they never win and every
    token has text."""

    def dense(*shape: int) -> torch.Tensor:
        return torch.empty(shape, dtype=torch.float16, device=device).normal_(0, 0.02).cpu()

    def packed(rows: int, columns: int) -> torch.Tensor:
        whole = torch.randint(-(2**31), 2**31 - 1, (rows, columns), dtype=torch.int64, device=device)
        return whole.to(torch.int32).cpu()

    hidden = dims["hidden"]
    found = {
        "model.embed_tokens.weight": dense(dims["vocab"], hidden),
        "lm_head.weight": dense(dims["vocab"], hidden),
        "model.norm.weight": torch.ones(hidden, dtype=torch.float16),
    }
    found["lm_head.weight"][known_tokens:] = 0
    for number in range(dims["layers"]):
        layer = f"model.layers.{number}"
        for norm in ("input_layernorm", "post_attention_layernorm"):
            found[f"{layer}.{norm}.weight"] = torch.ones(hidden, dtype=torch.float16)
        for name, (rows, columns) in linears(dims).items():
            if awq:
                found[f"{layer}.{name}.qweight"] = packed(rows, columns // 8)
                found[f"{layer}.{name}.qzeros"] = packed(rows // GROUP, columns // 8)
                found[f"{layer}.{name}.scales"] = dense(rows // GROUP, columns).abs() * 0.1
            else:
                found[f"{layer}.{name}.weight"] = dense(columns, rows)
    return found


def known_tokens(tokenizer: Path) -> int:
    vocabulary = json.loads((tokenizer / "tokenizer.json").read_text("utf-8"))
    return len(vocabulary["model"]["vocab"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dimensions", choices=DIMENSIONS)
    parser.add_argument("--tokenizer", type=Path, required=True, help="a folder with a tokenizer to copy")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--awq", action="store_true", help="W4A16 instead of fp16")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dims = DIMENSIONS[options.dimensions]
    options.out.mkdir(parents=True, exist_ok=True)
    for path in options.tokenizer.iterdir():
        if path.suffix in {".json", ".jinja", ".model"} and path.name not in {
            "config.json",
            "generation_config.json",
            "provenance.json",
        }:
            shutil.copy(path, options.out)
    save_file(
        tensors(dims, awq=options.awq, device=device, known_tokens=known_tokens(options.tokenizer)),
        options.out / "model.safetensors",
        metadata={"format": "pt"},
    )
    (options.out / "config.json").write_text(json.dumps(config(dims, awq=options.awq), indent=2))


if __name__ == "__main__":
    main()
