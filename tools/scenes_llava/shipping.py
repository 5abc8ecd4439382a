"""Writes what is shipped: fp16 safetensors in parts below 15 MiB, packed with xz."""

import json
import lzma
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from scenes_llava.model import ScenesLlava, vision_config
from scenes_llava.recipe import Recipe

PART_BYTES = 14 * 2**20
FORMAT = 2
VISION_PREFIX = "vision_tower.vision_model."
PROJECTOR_PREFIX = "multi_modal_projector."


def write(model_state: dict[str, Tensor], recipe: Recipe, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number, part in enumerate(_parts(model_state), start=1):
        packed = lzma.compress(save(part, metadata={"format": "pt"}), preset=9)
        (folder / f"part-{number}.safetensors.xz").write_bytes(packed)
    text = json.dumps(architecture(recipe), indent=2)
    (folder / "architecture.json").write_text(text + "\n", "utf-8")


def architecture(recipe: Recipe) -> dict[str, Any]:
    """What the parts alone don't say."""
    kept = (
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "image_size",
        "patch_size",
        "projection_dim",
    )
    config = vision_config(recipe)
    return {
        "format": FORMAT,
        "vision_config": {"model_type": config.model_type, **{name: getattr(config, name) for name in kept}},
        "image_tokens": recipe.image_tokens,
        "adapter_rank": recipe.rank,
    }


def shipped(model: ScenesLlava) -> dict[str, Tensor]:
    """All trained tensors as fp16 on the CPU, under the hub's names; the adapter's scale is in its `up`."""
    found: dict[str, Tensor] = {}
    for name, tensor in model.vision.state_dict().items():
        found[f"{VISION_PREFIX}{name}"] = tensor
    for name, tensor in model.projector.state_dict().items():
        found[f"{PROJECTOR_PREFIX}{name}"] = tensor
    for name, module in model.adapter().items():
        found[f"adapter.{name}.down"] = module.down
        found[f"adapter.{name}.up"] = module.up * module.scale
    return {
        name: tensor.detach().to("cpu", torch.float16, copy=True).contiguous()
        for name, tensor in found.items()
    }


@torch.no_grad()
def restore(model: ScenesLlava, state: dict[str, Tensor]) -> None:
    """Back to a state of `shipped`, rounded to fp16 as it is."""
    device = model.embeddings.device
    state = {name: tensor.to(device, torch.float32) for name, tensor in state.items()}
    model.vision.load_state_dict(_under(VISION_PREFIX, state))
    model.projector.load_state_dict(_under(PROJECTOR_PREFIX, state))
    for name, module in model.adapter().items():
        module.down.copy_(state[f"adapter.{name}.down"])
        module.up.copy_(state[f"adapter.{name}.up"] / module.scale)


def _under(prefix: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}


def _parts(state: dict[str, Tensor]) -> list[dict[str, Tensor]]:
    parts: list[dict[str, Tensor]] = [{}]
    size = 0
    for name, tensor in state.items():
        if size + tensor.nbytes > PART_BYTES and parts[-1]:
            parts.append({})
            size = 0
        parts[-1][name] = tensor
        size += tensor.nbytes
    return parts
