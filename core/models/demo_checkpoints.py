"""A child process: writes the checkpoints of the demo models, in layouts that every engine can load.

The demo weights come out of a GGUF file of a small Llama. TurboMind's 4-bit kernels want sizes in multiples
of 128, which the smallest models don't have. Zero-padding gives them such sizes without changing what they
compute:

- Appended attention heads have zero projections: they add zero to the output. Queries per KV head stay as
  many, so every real query head keeps its KV head.
- Appended hidden dimensions are zero in every residual, since all that writes there has zero rows. Only
  RMSNorm sees them, in the mean over n' instead of n squares: with weights × sqrt(n/n') and epsilon × n/n'
  its output on the real dimensions is the same.

The vision model is a trained part joined to them. That part is not padded: its tensors go into the corner of
zeros, so that padded dimensions stay zero in every residual. The adapter is merged. The small files beside
the weights (configs, tokenizer, chat templates) are made from the demo weights' own files. They make
transformers and LMDeploy's PyTorch engine see the same tokens and pixels:

- An image is squashed to the tower's square and scaled to -1..1, and stands before the text of its turn: one
  <image> token, expanded to one for each patch, and a line break.
- <image> takes the place of a token that the demo weights have but never use: the vocabulary stays as large.
  LMDeploy fills images with the config's padding token, which therefore has to be <image> as well.
- LMDeploy guesses a template from the folder's path if it gets none: `lmdeploy_chat_template.json` is for its
  `--chat-template`.

Tensors are dequantised with the package `gguf`; everything else uses NumPy alone, since importing torch and
transformers would take most of the time. Runs by itself, as `python -m core.models.demo_checkpoints` with
`text FILE.gguf FOLDER` or `vision SHIPPED TEXT FOLDER`. Standard output is progress, a line each; the exit
code is 0 if FOLDER is complete.
"""

import json
import lzma
import math
import shutil
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize
from safetensors.numpy import load, load_file, save_file

from core.i18n import N_
from core.models.model_folders import say
from core.models.vision import CHAT_TEMPLATE_FILE
from core.models.weight_files import read_gguf_header

MULTIPLE = 128
FORMAT = 2
"""Of the shipped files."""

STORED_DTYPE: npt.DTypeLike = np.float16
"""The values are 4-bit steps times fp16 scales: fp16 keeps three bits more of them than bf16, GPUs with
TurboMind compute in it, and a bf16 lane rounds once, as it would have from the original."""

Array = npt.NDArray[Any]
Tensors = dict[str, Array]
Config = Mapping[str, Any]

_LAYER_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_OTHER_NAMES = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
_CONTROL = 3
"""A token's type in GGUF: one that marks, such as the end of a turn, and never stands in a text."""

IMAGE_TOKEN = "<image>"
IMAGE_TOKEN_ID = 16
_REPLACED_TOKEN = "<empty_output>"

SYSTEM = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"

_CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if loop.first and message['role'] != 'system' %}"
    "{{ '<|im_start|>system\n" + SYSTEM + "<|im_end|>\n' }}"
    "{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% if message['content'] is string %}"
    "{{ message['content'] }}"
    "{% else %}"
    "{% for part in message['content'] if part['type'] == 'image' %}{{ '<image>\n' }}{% endfor %}"
    "{{ message['content'] | selectattr('type', 'equalto', 'text') | map(attribute='text') | join('\n') }}"
    "{% endif %}"
    "{{ '<|im_end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


class GgufFile:
    """An open file; raises InputError for one that is no GGUF file."""

    def __init__(self, path: Path) -> None:
        self._header = read_gguf_header(path)
        self._data = np.memmap(path, np.uint8, "r")

    @property
    def metadata(self) -> Mapping[str, Any]:
        return self._header.metadata

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._header.tensors)

    def tensor(self, name: str) -> npt.NDArray[np.float32]:
        """A tensor's values, dequantised."""
        tensor = self._header.tensors[name]
        kind = GGMLQuantizationType(tensor.kind)
        per_block, block_bytes = GGML_QUANT_SIZES[kind]
        row_bytes = tensor.shape[-1] // per_block * block_bytes
        size = tensor.values // tensor.shape[-1] * row_bytes
        raw = np.asarray(self._data[tensor.offset : tensor.offset + size])
        values: npt.NDArray[np.float32] = dequantize(raw.reshape(*tensor.shape[:-1], row_bytes), kind)
        return values.reshape(tensor.shape)


def convert(gguf: Path, folder: Path) -> None:
    """Write the padded checkpoint of `gguf`, tokenizer and chat template included, into `folder`."""
    say(N_("Reading the GGUF file"))
    file = GgufFile(gguf)
    if (kind := file.metadata["general.architecture"]) != "llama":
        sys.exit(f"{gguf.name} holds a {kind} model; only Llama ones can be padded")
    config = read_config(file.metadata)
    padded = padded_config(config)
    say(
        N_(
            "Padding the hidden size from {size} to {padded}",
            size=config["hidden_size"],
            padded=padded["hidden_size"],
        )
    )
    weights = padded_weights(read_weights(file, config), config, padded)
    say(N_("Writing the checkpoint"))
    write_padded(weights, padded, folder)
    write_tokenizer(file.metadata, folder)


def read_config(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """The model's sizes under the names of a Hugging Face config."""
    sizes = {name.removeprefix("llama."): value for name, value in metadata.items()}
    heads = sizes["attention.head_count"]
    return {
        "model_type": "llama",
        "attention_bias": False,
        "bos_token_id": metadata["tokenizer.ggml.bos_token_id"],
        "dtype": np.dtype(STORED_DTYPE).name,
        "eos_token_id": metadata["tokenizer.ggml.eos_token_id"],
        "head_dim": sizes["embedding_length"] // heads,
        "hidden_act": "silu",
        "hidden_size": sizes["embedding_length"],
        "intermediate_size": sizes["feed_forward_length"],
        "max_position_embeddings": sizes["context_length"],
        "mlp_bias": False,
        "num_attention_heads": heads,
        "num_hidden_layers": sizes["block_count"],
        "num_key_value_heads": sizes["attention.head_count_kv"],
        "pad_token_id": metadata.get("tokenizer.ggml.padding_token_id"),
        "rms_norm_eps": sizes["attention.layer_norm_rms_epsilon"],
        "rope_parameters": {"rope_theta": sizes["rope.freq_base"], "rope_type": "default"},
        "vocab_size": len(metadata["tokenizer.ggml.tokens"]),
    }


def read_weights(file: GgufFile, config: Config) -> dict[str, Array]:
    """All tensors under their Hugging Face names; the output matrix is the embedding's where it has none."""
    weights = {_hf_name(name): file.tensor(name) for name in file.names}
    for name in weights:
        for projection, heads in (("q_proj", "num_attention_heads"), ("k_proj", "num_key_value_heads")):
            if projection in name:
                weights[name] = _rotary_halves(weights[name], config[heads])
    weights.setdefault("lm_head.weight", weights["model.embed_tokens.weight"])
    return weights


def padded_config(config: Config) -> dict[str, Any]:
    """The same model in multiples of 128, with an output matrix of its own for loaders that look for one."""
    per_kv_head = config["num_attention_heads"] // config["num_key_value_heads"]
    kv_heads = config["num_key_value_heads"]
    while kv_heads * config["head_dim"] % MULTIPLE:
        kv_heads += 1
    heads = kv_heads * per_kv_head
    # Some loaders take hidden size / heads for the head size.
    hidden_size = max(_rounded_up(config["hidden_size"]), heads * config["head_dim"])
    return {
        **config,
        "architectures": ["LlamaForCausalLM"],
        "hidden_size": hidden_size,
        "intermediate_size": _rounded_up(config["intermediate_size"]),
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "rms_norm_eps": config["rms_norm_eps"] * config["hidden_size"] / hidden_size,
        "tie_word_embeddings": False,
    }


def padded_weights(weights: Mapping[str, Array], config: Config, padded: Config) -> dict[str, Array]:
    """The tensors of the padded model: the old ones in the corner of zeros, norms rescaled."""
    norm_scale = math.sqrt(config["hidden_size"] / padded["hidden_size"])
    result = {}
    for name, old in weights.items():
        tensor = np.zeros(_shape(name, padded), np.float32)
        tensor[tuple(slice(size) for size in old.shape)] = old
        result[name] = tensor * np.float32(norm_scale) if name.endswith("norm.weight") else tensor
    return result


def write_padded(weights: Mapping[str, Array], config: Config, folder: Path) -> None:
    """Save config, weights and a generation config that only says how answers end."""
    stored = {name: _stored(tensor, name) for name, tensor in weights.items()}
    save_file(stored, folder / "model.safetensors", metadata={"format": "pt"})
    _write_json(folder / "config.json", config)
    ends = {name: config.get(name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    _write_json(folder / "generation_config.json", ends)


def write_tokenizer(metadata: Mapping[str, Any], folder: Path) -> None:
    """Save the tokenizer and its chat template as they stand in the GGUF file, so that lanes over either
    form get the same prompt tokens."""
    field = "tokenizer.ggml.{}".format
    if (kind := metadata[field("model")]) != "gpt2":
        sys.exit(f"The file has a {kind} tokenizer; only byte-level BPE can be converted")
    tokens = metadata[field("tokens")]
    byte_level = {"type": "ByteLevel", "trim_offsets": True, "use_regex": True}
    sequences = [{"Sequence": {"id": name, "type_id": place}} for place, name in enumerate("AB")]
    _write_json(
        folder / "tokenizer.json",
        {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": [
                _control_token(number, tokens[number])
                for number, kind in enumerate(metadata[field("token_type")])
                if kind == _CONTROL
            ],
            "normalizer": None,
            "pre_tokenizer": {**byte_level, "add_prefix_space": False},
            "post_processor": {
                "type": "TemplateProcessing",
                "single": sequences[:1],
                "pair": sequences,
                "special_tokens": {},
            },
            "decoder": {**byte_level, "add_prefix_space": True},
            "model": {
                "type": "BPE",
                "dropout": None,
                "unk_token": None,
                "continuing_subword_prefix": "",
                "end_of_word_suffix": "",
                "fuse_unk": False,
                "byte_fallback": False,
                "ignore_merges": False,
                "vocab": {token: number for number, token in enumerate(tokens)},
                "merges": [merge.split(" ") for merge in metadata[field("merges")]],
            },
        },
    )
    roles = {"bos_token": "bos", "eos_token": "eos", "pad_token": "padding", "unk_token": "unknown"}
    numbers = {role: metadata.get(field(f"{name}_token_id")) for role, name in roles.items()}
    _write_json(
        folder / "tokenizer_config.json",
        {
            "backend": "tokenizers",
            "model_max_length": metadata["llama.context_length"],
            "tokenizer_class": "TokenizersBackend",
            **{role: tokens[number] for role, number in numbers.items() if number is not None},
        },
    )
    (folder / "chat_template.jinja").write_text(metadata["tokenizer.chat_template"], "utf-8")


def _hf_name(name: str) -> str:
    if name in _OTHER_NAMES:
        return _OTHER_NAMES[name]
    _, layer, part, kind = name.split(".")
    return f"model.layers.{layer}.{_LAYER_NAMES[part]}.{kind}"


def _rotary_halves(weight: Array, heads: int) -> Array:
    """A head's rows in Hugging Face's order: GGUF has the two halves of the rotation interleaved."""
    pairs = weight.reshape(heads, -1, 2, *weight.shape[1:])
    return pairs.swapaxes(1, 2).reshape(weight.shape)


def _shape(name: str, config: Config) -> tuple[int, ...]:
    hidden, ffn = config["hidden_size"], config["intermediate_size"]
    queries = config["num_attention_heads"] * config["head_dim"]
    keys = config["num_key_value_heads"] * config["head_dim"]
    shapes = {
        "embed_tokens": (config["vocab_size"], hidden),
        "lm_head": (config["vocab_size"], hidden),
        "q_proj": (queries, hidden),
        "k_proj": (keys, hidden),
        "v_proj": (keys, hidden),
        "o_proj": (hidden, queries),
        "gate_proj": (ffn, hidden),
        "up_proj": (ffn, hidden),
        "down_proj": (hidden, ffn),
    }
    return shapes.get(name.split(".")[-2], (hidden,))


def _control_token(number: int, content: str) -> dict[str, Any]:
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {"id": number, "content": content, **flags}


def _rounded_up(size: int) -> int:
    return -(-size // MULTIPLE) * MULTIPLE


def assemble(shipped_dir: Path, text_dir: Path, folder: Path) -> None:
    """Write the complete checkpoint into `folder`."""
    architecture = json.loads((shipped_dir / "architecture.json").read_text("utf-8"))
    if architecture["format"] != FORMAT:
        sys.exit(f"{shipped_dir} is of format {architecture['format']}; this version knows {FORMAT}")
    say(N_("Reading the trained part and the demo weights"))
    shipped = _shipped(shipped_dir)
    text = load_file(text_dir / "model.safetensors")
    say(N_("Merging the adapter into the demo weights"))
    weights = {
        **_under("vision_tower.", shipped),
        **padded_projector(_under("multi_modal_projector.", shipped), text["model.norm.weight"].shape[0]),
        **{f"language_model.{name}": tensor for name, tensor in merged(text, shipped).items()},
    }
    say(N_("Writing the checkpoint"))
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    write_vision_files(architecture, text_dir, folder)


def merged(text: Tensors, shipped: Tensors) -> Tensors:
    """The language model's weights plus the adapter's products, added up in float32."""
    result = dict(text)
    for name in shipped:
        if not name.startswith("adapter.") or not name.endswith(".up"):
            continue
        stem = name.removesuffix(".up")
        change = shipped[name].astype(np.float32) @ shipped[f"{stem}.down"].astype(np.float32)
        target = f"model.{stem.removeprefix('adapter.')}.weight"
        rows, columns = change.shape
        weight = text[target].astype(np.float32)
        weight[:rows, :columns] += change
        result[target] = _stored(weight, target)
    return result


def padded_projector(projector: Tensors, hidden: int) -> Tensors:
    """The projector in the padded size; GELU of zero is zero, so nothing reaches the padded dimensions."""
    result: Tensors = {}
    for name, tensor in projector.items():
        shape = (hidden, *tensor.shape[1:])
        if name.endswith("linear_2.weight"):
            shape = (hidden, hidden)
        whole: Array = np.zeros(shape, np.float16)
        whole[tuple(slice(size) for size in tensor.shape)] = tensor
        result[name] = whole
    return result


def _shipped(folder: Path) -> Tensors:
    result: Tensors = {}
    for path in _parts(folder):
        result |= load(lzma.decompress(path.read_bytes()))
    return result


def _parts(folder: Path) -> Iterable[Path]:
    return sorted(folder.glob("part-*.safetensors.xz"))


def _under(prefix: str, tensors: Tensors) -> Tensors:
    return {name: tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def write_vision_files(architecture: dict[str, Any], text_dir: Path, folder: Path) -> None:
    """Write all but the weights into `folder`.

    Args:
        architecture: the shipped `architecture.json`.
        text_dir: the prepared demo weights.
        folder: the checkpoint in the making.
    """
    vision = architecture["vision_config"]
    _write_json(folder / "config.json", checkpoint_config(architecture, _read(text_dir / "config.json")))
    _write_json(folder / "preprocessor_config.json", preprocessor_config(vision["image_size"]))
    _write_json(folder / "processor_config.json", processor_config(vision["patch_size"]))
    _write_json(folder / "tokenizer.json", with_image_token(_read(text_dir / "tokenizer.json")))
    tokenizer_config = _read(text_dir / "tokenizer_config.json")
    _write_json(folder / "tokenizer_config.json", {**tokenizer_config, "processor_class": "LlavaProcessor"})
    _write_json(folder / CHAT_TEMPLATE_FILE, lmdeploy_template())
    (folder / "chat_template.jinja").write_text(_CHAT_TEMPLATE, "utf-8")
    shutil.copy(text_dir / "generation_config.json", folder)


def checkpoint_config(architecture: dict[str, Any], text: dict[str, Any]) -> dict[str, Any]:
    """The config in the hub's form. LMDeploy wants the language model's architecture named inside."""
    return {
        "architectures": ["LlavaForConditionalGeneration"],
        "model_type": "llava",
        "dtype": text["dtype"],
        "image_token_index": IMAGE_TOKEN_ID,
        "image_seq_length": architecture["image_tokens"],
        "pad_token_id": IMAGE_TOKEN_ID,
        "projector_hidden_act": "gelu",
        "multimodal_projector_bias": True,
        "vision_feature_layer": -1,
        "vision_feature_select_strategy": "default",
        "tie_word_embeddings": False,
        "text_config": {**text, "architectures": ["LlamaForCausalLM"]},
        "vision_config": architecture["vision_config"],
    }


def preprocessor_config(side_px: int) -> dict[str, Any]:
    side = {"height": side_px, "width": side_px}
    return {
        "image_processor_type": "CLIPImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": side,
        "resample": 3,
        "do_center_crop": False,
        "crop_size": side,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
    }


def processor_config(patch_px: int) -> dict[str, Any]:
    """One additional token for the class token, which "default" takes away again."""
    return {
        "processor_class": "LlavaProcessor",
        "image_token": IMAGE_TOKEN,
        "patch_size": patch_px,
        "num_additional_image_tokens": 1,
        "vision_feature_select_strategy": "default",
    }


def with_image_token(tokenizer: dict[str, Any]) -> dict[str, Any]:
    """The tokenizer with <image> in place of the unused token."""
    vocabulary = {
        IMAGE_TOKEN if token == _REPLACED_TOKEN else token: number
        for token, number in tokenizer["model"]["vocab"].items()
    }
    added = [
        {**token, "content": IMAGE_TOKEN} if token["content"] == _REPLACED_TOKEN else token
        for token in tokenizer["added_tokens"]
    ]
    if vocabulary.get(IMAGE_TOKEN) != IMAGE_TOKEN_ID:
        raise ValueError(f"the tokenizer has no token {IMAGE_TOKEN_ID} called {_REPLACED_TOKEN}")
    return {**tokenizer, "added_tokens": added, "model": {**tokenizer["model"], "vocab": vocabulary}}


def lmdeploy_template() -> dict[str, Any]:
    """The same ChatML as `chat_template.jinja`; LMDeploy itself puts images and line breaks in front."""
    return {
        "model_name": "scenes-llava",
        "system": "<|im_start|>system\n",
        "meta_instruction": SYSTEM,
        "eosys": "<|im_end|>\n",
        "user": "<|im_start|>user\n",
        "eoh": "<|im_end|>\n",
        "assistant": "<|im_start|>assistant\n",
        "eoa": "<|im_end|>",
        "separator": "\n",
        "capability": "chat",
        "stop_words": ["<|im_end|>"],
    }


def _read(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return content


def _stored(tensor: Array, name: str) -> Array:
    with np.errstate(over="ignore"):
        stored = tensor.astype(STORED_DTYPE)
    if not np.isfinite(stored).all():
        sys.exit(f"{name} has values that {np.dtype(STORED_DTYPE).name} can't hold")
    return stored


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", "utf-8")


if __name__ == "__main__":
    paths = map(Path, sys.argv[2:])
    if sys.argv[1] == "vision":
        assemble(*paths)
    else:
        convert(*paths)
