"""A checkpoint folder with Llama-3-8B's attention and weights of a few bytes."""

import json
import struct


def write_checkpoint(folder, **config):
    folder.mkdir()
    sizes = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "vocab_size": 128256,
        "dtype": "bfloat16",
    }
    (folder / "config.json").write_text(json.dumps(sizes | config))
    header = json.dumps(
        {"model.norm.weight": {"dtype": "BF16", "shape": [4], "data_offsets": [0, 8]}}
    ).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(8))
    return folder
