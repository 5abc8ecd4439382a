"""W4A16 with error-compensated rounding, written in LMDeploy's AWQ layout.

LMDeploy rounds each weight to the nearest of its group's 16 values. Here the rounding of a layer minimises
the error of what it puts out for the calibration's inputs, as they arrive through the layers that are rounded
already. The demo model loses a third less that way than by LMDeploy's best (docs/measurements/quality.md).

Takes models of Llama's structure, among them InternLM2 (converted), Qwen2 and Mistral. The checkpoint stays
on the CPU; one layer after another is on the GPU, in float32, with the calibration's hidden states: a layer
of 4,096 dimensions and 32,768 tokens take about 8 GB. Imports torch and lmdeploy; the quantisation's worker
runs it.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import nn

from core.errors import InputError
from core.i18n import N_
from core.models.awq.options import GROUP_SIZE
from core.models.awq.rounding import BITS, Rounded, compensated, in_best_ranges

RATIOS = 20
"""How many scales are tried for each block, from none to all of what the inputs' sizes suggest."""
CHUNK = 16
"""Sequences that go through a layer at once."""

Tensor: TypeAlias = Any  # torch and transformers are imported without types
Module: TypeAlias = Any
Inputs: TypeAlias = dict[str, Tensor]
Arguments: TypeAlias = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class _Block:
    """Linears with one input in common, what they belong to, and what their scale can move into."""

    names: tuple[str, ...]
    whole: str
    before: str | None


_BLOCKS = (
    _Block(("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"), "self_attn", "input_layernorm"),
    _Block(("self_attn.o_proj",), "self_attn.o_proj", None),
    _Block(("mlp.gate_proj", "mlp.up_proj"), "mlp", "post_attention_layernorm"),
    _Block(("mlp.down_proj",), "mlp.down_proj", "mlp.up_proj"),
)


def quantize_llama(
    model: Module,
    samples: Sequence[Tensor],
    *,
    device: str,
    search_scale: bool,
    on_layer: Callable[[int, int], None],
) -> None:
    """Replace the linears of a model's layers by rounded ones, in place.

    Args:
        model: a causal language model on the CPU.
        samples: [1, length] token ids, all of one length.
        search_scale: whether inputs are scaled by what a search finds best.
        on_layer: takes how many layers are done, and of how many.

    Raises InputError (`rounding-unsupported`) for another structure than Llama's.
    """
    _require_llama(model)
    model.set_attn_implementation("sdpa")  # causal without a mask
    layers = model.model.layers
    with torch.no_grad():
        hidden = model.model.embed_tokens(torch.cat(list(samples))).float().to(device)
        positions = torch.arange(hidden.shape[1], device=device)[None]
        rotary = model.model.rotary_emb.to(device)
        shared = {"position_embeddings": rotary(hidden, positions), "attention_mask": None}
        for number, layer in enumerate(layers):
            hidden = _quantize_layer(layer, hidden, shared, device, search_scale=search_scale)
            on_layer(number + 1, len(layers))
    model.model.rotary_emb.to("cpu")


def save(model: Module, tokenizer: Module, folder: Path) -> None:
    """Write a model whose linears are rounded, as `lmdeploy lite auto_awq` does."""
    model.config.update(
        {
            "quantization_config": {
                "quant_method": "awq",
                "version": "gemm",
                "bits": BITS,
                "group_size": GROUP_SIZE,
                "zero_point": True,
            }
        }
    )
    model.save_pretrained(folder, safe_serialization=True)
    tokenizer.save_pretrained(folder)


def _require_llama(model: Module) -> None:
    layers = getattr(getattr(model, "model", None), "layers", None)
    names = {
        "input_layernorm",
        "post_attention_layernorm",
        *(name for block in _BLOCKS for name in block.names),
    }
    fits = bool(layers) and hasattr(model.model, "rotary_emb")
    for layer in layers or ():
        modules = dict(layer.named_modules())
        fits = fits and names <= modules.keys() and set(_linears(layer)) < names
    if not fits:
        raise InputError(
            N_(
                "Error-compensated rounding supports only models with Llama's structure, not {kind}.",
                kind=type(model).__name__,
            ),
            hint=N_("Choose the rounding `nearest`."),
            code="rounding-unsupported",
        )


def _quantize_layer(
    layer: Module,
    hidden: Tensor,
    shared: Arguments,
    device: str,
    *,
    search_scale: bool,
) -> Tensor:
    """Return what the rounded layer puts out; its linears are in LMDeploy's form afterwards, on the CPU."""
    dtype = next(layer.parameters()).dtype
    layer.to(device, torch.float32)
    inputs = _observed(layer, hidden, shared)
    if search_scale:
        _move_scales(layer, inputs, shared)
    rounded: dict[str, Rounded] = {}
    for block in _BLOCKS:
        flat = inputs.pop(block.names[0]).flatten(0, -2)
        moments = flat.T @ flat / len(flat)
        for name in block.names:
            linear = layer.get_submodule(name)
            rounded[name] = compensated(linear.weight.data, moments)
            linear.weight.data = rounded[name].weight
    output = _through(layer, hidden, shared)
    for name, weights in rounded.items():
        _pack(layer, name, weights, dtype)
    layer.to("cpu", dtype)
    return output


def _pack(layer: Module, name: str, rounded: Rounded, dtype: torch.dtype) -> None:
    from lmdeploy.lite.quantization import WeightQuantizer
    from lmdeploy.lite.quantization.modules import WeightOnlyQLinear
    from lmdeploy.lite.utils import QParams

    parent_name, _, child_name = name.rpartition(".")
    parent = layer.get_submodule(parent_name)
    linear = getattr(parent, child_name).to(dtype)
    linear.weight.data = rounded.values
    quantizer = WeightQuantizer(BITS, False, "per_group", GROUP_SIZE)
    qparams = QParams(rounded.steps.half(), rounded.zeros)
    setattr(parent, child_name, WeightOnlyQLinear.from_linear(linear, quantizer, qparams=qparams))


def _move_scales(layer: Module, inputs: Inputs, shared: Arguments) -> None:
    """Scale the linears' inputs down and their weights up, where that lets rounding lose less (AWQ)."""
    moves = [
        (block, _searched(layer, block, inputs[block.names[0]], shared if block.whole == "self_attn" else {}))
        for block in _BLOCKS
        if block.before is not None
    ]
    for block, scales in moves:
        before = layer.get_submodule(block.before)
        before.weight.data.div_(scales if before.weight.dim() == 1 else scales[:, None])
        if getattr(before, "bias", None) is not None:
            before.bias.data.div_(scales)
        for name in block.names:
            layer.get_submodule(name).weight.data.mul_(scales)
        inputs[block.names[0]] = inputs[block.names[0]] / scales


def _searched(layer: Module, block: _Block, x: Tensor, arguments: Arguments) -> Tensor:
    """The scales, one per input, with which rounding changes the block's output least."""
    whole = layer.get_submodule(block.whole)
    linears = [layer.get_submodule(name) for name in block.names]
    flat = x.flatten(0, -2)
    sizes, squares = flat.abs().mean(0), flat.square().mean(0)
    is_used = sizes > 0
    weights = [linear.weight.data for linear in linears]
    shares = _shares(torch.cat(weights))
    exact = _through(whole, x, arguments)
    best, least = torch.ones_like(sizes), float("inf")
    for number in range(RATIOS):
        ratio = number / RATIOS
        scales = (sizes.pow(ratio) / shares.pow(1 - ratio).clamp(min=1e-4)).clamp(min=1e-4)
        if bool(is_used.any()):
            scales = scales / (scales[is_used].max() * scales[is_used].min()).sqrt()
        scales = torch.where(is_used, scales, torch.ones_like(scales))
        for linear, weight in zip(linears, weights, strict=True):
            linear.weight.data = in_best_ranges(weight * scales, squares / scales.square()).weight / scales
        loss = (_through(whole, x, arguments) - exact).square().mean().item()
        if loss < least:
            best, least = scales, loss
    for linear, weight in zip(linears, weights, strict=True):
        linear.weight.data = weight
    return best


def _shares(weight: Tensor) -> Tensor:
    """Return how large each input's weights are beside the largest of their groups, on average; [inputs]."""
    groups = weight.view(-1, GROUP_SIZE).abs()
    return (groups / groups.amax(1, keepdim=True).clamp(min=1e-4)).view(weight.shape).mean(0)


def _linears(layer: Module) -> dict[str, Module]:
    return {name: module for name, module in layer.named_modules() if isinstance(module, nn.Linear)}


def _observed(layer: Module, hidden: Tensor, shared: Arguments) -> Inputs:
    """The inputs of each block, by the name of its first linear."""
    parts: dict[str, list[Tensor]] = {block.names[0]: [] for block in _BLOCKS}
    hooks = [
        layer.get_submodule(name).register_forward_pre_hook(
            lambda _module, given, name=name: parts[name].append(given[0])
        )
        for name in parts
    ]
    _through(layer, hidden, shared)
    for hook in hooks:
        hook.remove()
    return {name: torch.cat(part) for name, part in parts.items()}


def _through(module: Module, hidden: Tensor, arguments: Arguments) -> Tensor:
    return torch.cat(list(_chunks(module, hidden, arguments)))


def _chunks(module: Module, hidden: Tensor, arguments: Arguments) -> Iterator[Tensor]:
    for chunk in hidden.split(CHUNK):
        output = module(chunk, **arguments)
        yield output[0] if isinstance(output, tuple) else output
