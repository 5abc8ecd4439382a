"""Writes a checkpoint with random weights in a known model's dimensions: Llama, LLaVA or Qwen2.5-VL.

Speed and memory don't depend on the values, so a machine without a model hub can measure any size:

    python tools/random_checkpoint.py internlm2-1.8b --tokenizer MODEL_DIR --out /tmp/internlm2-1.8b [--awq]
    python tools/random_checkpoint.py llava-1.5-7b --tokenizer MODEL_DIR --out /tmp/llava-1.5-7b

The dimensions are those of the published config.json files of internlm/internlm2-chat-1_8b and -7b,
llava-hf/llava-1.5-7b-hf and Qwen/Qwen2.5-VL-3B-Instruct. MODEL_DIR is a model with a byte-level BPE
tokenizer, such as the demo weights; vision models get its vocabulary cut to theirs, and their own special
tokens. The answers are noise.
"""

import argparse
import json
import shutil
from pathlib import Path

from random_vision import VISION_MODELS, write_vision_checkpoint
from random_weights import Values, Weight, silent_tokens, write_weights

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


def weights(
    dims: dict[str, int], *, awq: bool, known_tokens: int, silent: tuple[int, ...]
) -> dict[str, Weight]:
    """All tensors of a Llama checkpoint."""
    hidden = dims["hidden"]
    found = {
        "model.embed_tokens.weight": Weight((dims["vocab"], hidden)),
        "lm_head.weight": Weight((dims["vocab"], hidden), known_rows=known_tokens, silent_rows=silent),
        "model.norm.weight": Weight((hidden,), Values.ONES),
    }
    for number in range(dims["layers"]):
        layer = f"model.layers.{number}"
        for norm in ("input_layernorm", "post_attention_layernorm"):
            found[f"{layer}.{norm}.weight"] = Weight((hidden,), Values.ONES)
        for name, (rows, columns) in linears(dims).items():
            if awq:
                found[f"{layer}.{name}.qweight"] = Weight((rows, columns // 8), Values.PACKED)
                found[f"{layer}.{name}.qzeros"] = Weight((rows // GROUP, columns // 8), Values.PACKED)
                found[f"{layer}.{name}.scales"] = Weight((rows // GROUP, columns), Values.SCALES)
            else:
                found[f"{layer}.{name}.weight"] = Weight((columns, rows))
    return found


def known_tokens(tokenizer: Path) -> int:
    vocabulary = json.loads((tokenizer / "tokenizer.json").read_text("utf-8"))
    return len(vocabulary["model"]["vocab"])


def write_text_checkpoint(name: str, tokenizer: Path, out: Path, *, awq: bool, seed: int) -> None:
    dims = DIMENSIONS[name]
    for path in tokenizer.iterdir():
        if path.suffix in {".json", ".jinja", ".model"} and path.name not in {
            "config.json",
            "generation_config.json",
            "provenance.json",
        }:
            shutil.copy(path, out)
    write_weights(
        out / "model.safetensors",
        weights(dims, awq=awq, known_tokens=known_tokens(tokenizer), silent=silent_tokens(tokenizer)),
        seed=seed,
    )
    # Last, so that a folder with a config is complete.
    (out / "config.json").write_text(json.dumps(config(dims, awq=awq), indent=2), "utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dimensions", choices=(*DIMENSIONS, *VISION_MODELS))
    parser.add_argument("--tokenizer", type=Path, required=True, help="a model folder with a tokenizer")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--awq", action="store_true", help="W4A16 instead of fp16; text models only")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    name, tokenizer, out = options.dimensions, options.tokenizer, options.out
    out.mkdir(parents=True, exist_ok=True)
    if name in DIMENSIONS:
        write_text_checkpoint(name, tokenizer, out, awq=options.awq, seed=options.seed)
    elif options.awq:
        parser.error(f"{name} can't be written as AWQ")
    else:
        write_vision_checkpoint(name, tokenizer, out, seed=options.seed)


if __name__ == "__main__":
    main()
