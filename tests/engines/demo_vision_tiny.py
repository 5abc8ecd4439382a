"""A tiny stand-in for the demo weights, and for what is trained over them, with random values."""

from pathlib import Path

import torch
from scenes_llava import shipping
from scenes_llava.model import ScenesLlava
from scenes_llava.recipe import TINY
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from core.models import demo_checkpoints

_SPECIAL = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    *(f"<unused_{n}>" for n in range(13)),
    "<empty_output>",
)
_TEXT = "What color is the red circle? Where is the blue star? How many shapes are there in the image?"


def write_tiny_text(folder: Path) -> Path:
    """A padded checkpoint as `core.models.demo_checkpoints` writes it: 96 hidden dimensions are real."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=list(_SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([_TEXT], trainer)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=320,
        hidden_size=96,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=6,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=1024,
        initializer_range=0.2,
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=2,
    )
    sizes = {**config.to_dict(), "dtype": "float16"}
    padded = demo_checkpoints.padded_config(sizes)
    weights = {name: tensor.numpy() for name, tensor in LlamaForCausalLM(config).state_dict().items()}
    demo_checkpoints.write_padded(demo_checkpoints.padded_weights(weights, sizes, padded), padded, folder)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<|im_start|>", eos_token="<|im_end|>", pad_token="<|im_end|>"
    )
    fast.model_max_length = 1024
    fast.save_pretrained(folder)
    return folder


def write_tiny_shipped(text_dir: Path, folder: Path) -> ScenesLlava:
    """What a training run ships; gives the model that it is from."""
    torch.manual_seed(1)
    model = ScenesLlava(TINY, text_dir, torch.float32)
    with torch.no_grad():
        for module in model.adapter().values():
            module.up.normal_(0, 0.05)
    state = shipping.shipped(model)
    shipping.write(state, TINY, folder)
    shipping.restore(model, state)
    return model
