"""A child process: joins the trained part of the demo vision model to the demo weights.

The demo weights are zero-padded (`core.models.demo.gguf_to_hf`), the trained part is not: its tensors go
into the corner of zeros, so that padded dimensions stay zero in every residual. The adapter is merged.

Runs by itself: `python -m core.models.demo.vision_assemble SHIPPED TEXT FOLDER`.
Standard output is progress, a line each; the exit code is 0 if FOLDER is complete.
"""

import json
import lzma
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import load, load_file, save_file

from core.i18n import N_
from core.models.child_stages import say
from core.models.demo.vision_files import write_files

FORMAT = 2
"""Of the shipped files."""

Array = npt.NDArray[Any]
Tensors = dict[str, Array]


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


if __name__ == "__main__":
    assemble(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]))
