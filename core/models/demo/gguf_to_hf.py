"""A child process: turns a GGUF file of a small Llama into a checkpoint that every engine can load.

TurboMind's 4-bit kernels want sizes in multiples of 128, which the smallest models don't have. Zero-padding
gives them such sizes without changing what they compute:

- Appended attention heads have zero projections: they add zero to the output. Queries per KV head stay as
  many, so every real query head keeps its KV head.
- Appended hidden dimensions are zero in every residual, since all that writes there has zero rows. Only
  RMSNorm sees them, in the mean over n' instead of n squares: with weights × sqrt(n/n') and epsilon × n/n'
  its output on the real dimensions is the same.

Imports torch and transformers, so it runs by itself: `python -m core.models.demo.gguf_to_hf FILE.gguf
FOLDER`. Standard output is progress, a line each; the exit code is 0 if FOLDER is complete.
"""

import math
import sys
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerBase,
)

MULTIPLE = 128

STORED_DTYPE = torch.float16
"""The values are 4-bit steps times fp16 scales: fp16 keeps three bits more of them than bf16, GPUs with
TurboMind compute in it, and a bf16 lane rounds once, as it would have from the original."""


def convert(gguf: Path, folder: Path) -> None:
    """Write the padded checkpoint of `gguf`, tokenizer and chat template included, into `folder`."""
    _say("Reading the GGUF file")
    model = AutoModelForCausalLM.from_pretrained(str(gguf.parent), gguf_file=gguf.name, dtype=torch.float32)
    if model.config.model_type != "llama":
        sys.exit(f"{gguf.name} holds a {model.config.model_type} model; only Llama ones can be padded")
    tokenizer = AutoTokenizer.from_pretrained(str(gguf.parent), gguf_file=gguf.name)
    config = padded_config(model.config)
    _say(f"Padding hidden size {model.config.hidden_size} to {config.hidden_size}")
    weights = padded_weights(model.state_dict(), model.config, config)
    _say("Writing the checkpoint")
    write(weights, config, folder)
    save_tokenizer(tokenizer, config.max_position_embeddings, folder)


def padded_config(config: LlamaConfig) -> LlamaConfig:
    """The same model in multiples of 128, with an output matrix of its own for loaders that look for one."""
    padded = deepcopy(config)
    per_kv_head = config.num_attention_heads // config.num_key_value_heads
    while padded.num_key_value_heads * config.head_dim % MULTIPLE:
        padded.num_key_value_heads += 1
    padded.num_attention_heads = padded.num_key_value_heads * per_kv_head
    # Some loaders take hidden size / heads for the head size.
    padded.hidden_size = max(_rounded_up(config.hidden_size), padded.num_attention_heads * config.head_dim)
    padded.intermediate_size = _rounded_up(config.intermediate_size)
    padded.rms_norm_eps = config.rms_norm_eps * config.hidden_size / padded.hidden_size
    padded.tie_word_embeddings = False
    padded.architectures = ["LlamaForCausalLM"]
    padded.dtype = STORED_DTYPE
    if "quantization_config" in padded.to_dict():
        del padded.quantization_config
    return padded


def padded_weights(
    weights: Mapping[str, torch.Tensor], config: LlamaConfig, padded: LlamaConfig
) -> dict[str, torch.Tensor]:
    """The tensors of the padded model: the old ones in the corner of zeros, norms rescaled."""
    with torch.device("meta"):
        shapes = {name: t.shape for name, t in LlamaForCausalLM(padded).state_dict().items()}
    norm_scale = math.sqrt(config.hidden_size / padded.hidden_size)
    result = {}
    for name, shape in shapes.items():
        tensor = torch.zeros(shape, dtype=torch.float32)
        old = weights[name]
        tensor[tuple(slice(size) for size in old.shape)] = old
        result[name] = tensor * norm_scale if name.endswith("norm.weight") else tensor
    return result


def write(weights: Mapping[str, torch.Tensor], config: LlamaConfig, folder: Path) -> None:
    """Save config, weights and a generation config that only says how answers end."""
    stored = {name: tensor.to(STORED_DTYPE) for name, tensor in weights.items()}
    if lost := [name for name, tensor in stored.items() if not tensor.isfinite().all()]:
        sys.exit(f"{lost[0]} has values that {STORED_DTYPE} can't hold")
    with torch.device("meta"):
        model = LlamaForCausalLM(config)
    model.load_state_dict(stored, assign=True)
    model.generation_config = GenerationConfig(
        bos_token_id=config.bos_token_id,
        eos_token_id=config.eos_token_id,
        pad_token_id=config.pad_token_id,
    )
    model.save_pretrained(folder)


def save_tokenizer(tokenizer: PreTrainedTokenizerBase, context_tokens: int, folder: Path) -> None:
    """Save the tokenizer and its chat template as they stand in the GGUF file, so that lanes over either
    form get the same prompt tokens."""
    tokenizer.model_max_length = context_tokens
    for how_it_was_loaded in ("is_local", "local_files_only"):
        tokenizer.init_kwargs.pop(how_it_was_loaded, None)
    tokenizer.save_pretrained(folder)


def _rounded_up(size: int) -> int:
    return -(-size // MULTIPLE) * MULTIPLE


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    convert(Path(sys.argv[1]), Path(sys.argv[2]))
