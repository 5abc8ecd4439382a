"""Ways to round a model's linear layers to the values that W4A16 can hold, computed in float32.

Each gives the weights as they come out of the 4-bit form, without packing them, so that a way can be scored
in seconds. `lmdeploy` calls LMDeploy's own functions. `ours` is the same scale search in other orders, with
other roundings of the scaled weights:

nearest      to the group's evenly spaced values between its least and largest weight, as LMDeploy does
ranges       the same over the narrower range that loses least, weighted by the inputs' squares
compensated  one column after another, each spreading its error over those that follow (GPTQ), in such ranges
"""

import contextlib
import io
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from core.models.awq.options import GROUP_SIZE
from core.models.awq.rounding import BITS, compensated, in_best_ranges

RATIOS = 20
CHUNK = 16
"""Sequences that go through a block at once."""


@dataclass(frozen=True)
class Ours:
    """One way of ours."""

    rounding: str = "nearest"
    sequential: bool = False
    """Whether each layer is calibrated on what the rounded layers before it put out."""
    scales: bool = True
    """Whether inputs are scaled, by searched ratios."""


def lmdeploy(source: Path, samples: torch.Tensor, *, device: str, search: bool, batch: int) -> Any:
    """The model after LMDeploy's `calibrate`, smoothing and rounding; its messages are swallowed."""
    import lmdeploy.lite.apis.calibrate as calibration
    from lmdeploy.lite.quantization import awq
    from lmdeploy.lite.utils import collect_target_modules

    calibration.get_calib_loaders = lambda *_args, **_kwargs: list(samples.split(1))
    if device == "cpu":
        torch.cuda.max_memory_allocated = lambda *_args, **_kwargs: 0
    with tempfile.TemporaryDirectory() as work, contextlib.redirect_stdout(io.StringIO()):
        _, _, model, _, _ = calibration.calibrate(
            str(source),
            calib_samples=len(samples),
            calib_seqlen=samples.shape[1],
            work_dir=work,
            device=device,
            w_group_size=GROUP_SIZE,
            search_scale=search,
            dtype="float16",
            batch_size=batch,
        )
        statistics = torch.load(Path(work, "inputs_stats.pth"), weights_only=True)
        kind = calibration.LAYER_TYPE_MAP[type(model).__name__]
        layers = collect_target_modules(model, kind)
        maps = awq.FC_FCS_MAP[kind], awq.NORM_FCS_MAP[kind]
        if search:
            awq.awq_layers(layers, *maps, statistics["absmean"], statistics["ratios"], GROUP_SIZE, device)
        else:
            awq.smooth_layers(layers, *maps, statistics["absmax"], GROUP_SIZE, device)
        with torch.no_grad():
            for layer in layers.values():
                layer.to(device)
                for linear in _linears(layer).values():
                    linear.weight.data = awq.pseudo_quantize_tensor(linear.weight.data, BITS, GROUP_SIZE)
    return model.to(device)


@torch.no_grad()
def ours(model: Any, samples: torch.Tensor, way: Ours) -> list[float]:
    """Round a float32 Llama in place; the searched ratios, layer by layer."""
    device = model.device
    hidden = model.model.embed_tokens(samples.to(device))
    positions = torch.arange(samples.shape[1], device=device)[None]
    shared = {"position_embeddings": model.model.rotary_emb(hidden, positions), "attention_mask": None}
    ratios: list[float] = []
    for layer in model.model.layers:
        output, inputs = _observed(layer, hidden, shared)
        if way.scales:
            ratios += _scale(layer, inputs, shared, way.rounding == "nearest")
        for name, linear in _linears(layer).items():
            linear.weight.data = _rounded(linear.weight.data, inputs[name], way.rounding)
        hidden = _through(layer, hidden, shared) if way.sequential else output
    return ratios


def _scale(layer: Any, inputs: dict[str, torch.Tensor], shared: dict[str, Any], nearest: bool) -> list[float]:
    """Move scale from the layer's linears into what comes before them; `inputs` are scaled along."""
    attention, mlp = layer.self_attn, layer.mlp
    groups = (
        (
            layer.input_layernorm,
            ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
            attention,
            shared,
        ),
        (layer.post_attention_layernorm, ("mlp.gate_proj", "mlp.up_proj"), mlp, {}),
        (mlp.up_proj, ("mlp.down_proj",), mlp.down_proj, {}),
    )
    found = []
    for before, names, block, arguments in groups:
        linears = [layer.get_submodule(name) for name in names]
        found.append(
            (before, names, linears, *_searched(block, linears, inputs[names[0]], arguments, nearest))
        )
    for before, names, linears, scales, _ in found:
        before.weight.data.div_(scales if before.weight.dim() == 1 else scales[:, None])
        for linear in linears:
            linear.weight.data.mul_(scales)
        for name in names:
            inputs[name] = inputs[name] / scales
    return [ratio for *_, ratio in found]


def _searched(
    block: Any, linears: Sequence[Any], x: torch.Tensor, arguments: dict[str, Any], nearest: bool
) -> tuple[torch.Tensor, float]:
    """The scales, and their ratio, with which the block's output changes least."""
    flat = x.reshape(-1, x.shape[-1])
    mean = flat.abs().mean(0)
    used = mean > 0
    weights = [linear.weight.data.clone() for linear in linears]
    shape = _relative(torch.cat(weights))
    right = _through(block, x, arguments)
    best = (float("inf"), 0.0, torch.ones_like(mean))
    for step in range(RATIOS):
        ratio = step / RATIOS
        scales = (mean.pow(ratio) / shape.pow(1 - ratio).clamp(min=1e-4)).clamp(min=1e-4)
        scales = scales / (scales[used].max() * scales[used].min()).sqrt()
        scales = torch.where(used, scales, torch.ones_like(scales))
        for linear, weight in zip(linears, weights, strict=True):
            rounding = "nearest" if nearest else "ranges"
            linear.weight.data = _rounded(weight * scales, x / scales, rounding) / scales
        loss = (_through(block, x, arguments) - right).pow(2).mean().item()
        if loss < best[0]:
            best = (loss, ratio, scales)
    for linear, weight in zip(linears, weights, strict=True):
        linear.weight.data = weight
    return best[2], best[1]


def _relative(weight: torch.Tensor) -> torch.Tensor:
    """How large each input's weights are beside the largest of their groups, on average."""
    groups = weight.view(-1, GROUP_SIZE).abs()
    return (groups / groups.amax(1, keepdim=True).clamp(min=1e-4)).view(weight.shape).mean(0)


def _rounded(weight: torch.Tensor, x: torch.Tensor, rounding: str) -> torch.Tensor:
    flat = x.reshape(-1, x.shape[-1])
    if rounding == "compensated":
        return compensated(weight, flat.T @ flat / len(flat)).weight
    if rounding == "ranges":
        return in_best_ranges(weight, flat.square().mean(0)).weight
    from lmdeploy.lite.quantization.awq import pseudo_quantize_tensor

    nearest: torch.Tensor = pseudo_quantize_tensor(weight, BITS, GROUP_SIZE)
    return nearest


def _linears(layer: nn.Module) -> dict[str, nn.Linear]:
    return {name: module for name, module in layer.named_modules() if isinstance(module, nn.Linear)}


def _observed(
    layer: nn.Module, hidden: torch.Tensor, shared: dict[str, Any]
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """The layer's output, and the inputs of its linears."""
    parts: dict[str, list[torch.Tensor]] = {name: [] for name in _linears(layer)}
    hooks = [
        linear.register_forward_pre_hook(lambda _module, given, name=name: parts[name].append(given[0]))
        for name, linear in _linears(layer).items()
    ]
    output = _through(layer, hidden, shared)
    for hook in hooks:
        hook.remove()
    return output, {name: torch.cat(part) for name, part in parts.items()}


def _through(module: nn.Module, hidden: torch.Tensor, arguments: dict[str, Any]) -> torch.Tensor:
    return torch.cat(list(_chunks(module, hidden, arguments)))


def _chunks(module: nn.Module, hidden: torch.Tensor, arguments: dict[str, Any]) -> Iterator[torch.Tensor]:
    for chunk in hidden.split(CHUNK):
        output = module(chunk, **arguments)
        yield output[0] if isinstance(output, tuple) else output
