"""A child process: joins the trained part of the demo vision model to the demo weights.

The demo weights are zero-padded (`core.models.demo_gguf_to_hf`), the trained part is not: its tensors go
into the corner of zeros, so that padded dimensions stay zero in every residual. The adapter is merged.

The small files beside the weights (configs, tokenizer, chat templates) are made from the demo weights' own
files. They make transformers and LMDeploy's PyTorch engine see the same tokens and pixels:

- An image is squashed to the tower's square and scaled to -1..1, and stands before the text of its turn: one
  <image> token, expanded to one for each patch, and a line break.
- <image> takes the place of a token that the demo weights have but never use: the vocabulary stays as large.
  LMDeploy fills images with the config's padding token, which therefore has to be <image> as well.
- LMDeploy guesses a template from the folder's path if it gets none: `lmdeploy_chat_template.json` is for its
  `--chat-template`.

Runs by itself: `python -m core.models.demo_vision_assemble SHIPPED TEXT FOLDER`.
Standard output is progress, a line each; the exit code is 0 if FOLDER is complete.
"""

import json
import lzma
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import load, load_file, save_file

from core.i18n import N_
from core.models.model_folders import say
from core.models.vision import CHAT_TEMPLATE_FILE

FORMAT = 2
"""Of the shipped files."""

Array = npt.NDArray[Any]
Tensors = dict[str, Array]
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
    write_files(architecture, text_dir, folder)


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


def _stored(tensor: Array, name: str) -> Array:
    with np.errstate(over="ignore"):
        stored = tensor.astype(np.float16)
    if not np.isfinite(stored).all():
        sys.exit(f"{name} has values that float16 can't hold")
    return stored


def write_files(architecture: dict[str, Any], text_dir: Path, folder: Path) -> None:
    """Write all but the weights into `folder`.

    Args:
        architecture: the shipped `architecture.json`.
        text_dir: the prepared demo weights.
        folder: the checkpoint in the making.
    """
    vision = architecture["vision_config"]
    _write(folder / "config.json", checkpoint_config(architecture, _read(text_dir / "config.json")))
    _write(folder / "preprocessor_config.json", preprocessor_config(vision["image_size"]))
    _write(folder / "processor_config.json", processor_config(vision["patch_size"]))
    _write(folder / "tokenizer.json", with_image_token(_read(text_dir / "tokenizer.json")))
    tokenizer_config = _read(text_dir / "tokenizer_config.json")
    _write(folder / "tokenizer_config.json", {**tokenizer_config, "processor_class": "LlavaProcessor"})
    _write(folder / CHAT_TEMPLATE_FILE, lmdeploy_template())
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


def _write(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", "utf-8")


if __name__ == "__main__":
    assemble(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]))
