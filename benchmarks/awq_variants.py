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

GROUP = 128
STEPS = 15
RATIOS = 20
RANGES = tuple(1 - 0.04 * step for step in range(11))
DAMPING = 0.01
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
            w_group_size=GROUP,
            search_scale=search,
            dtype="float16",
            batch_size=batch,
        )
        statistics = torch.load(Path(work, "inputs_stats.pth"), weights_only=True)
        kind = calibration.LAYER_TYPE_MAP[type(model).__name__]
        layers = collect_target_modules(model, kind)
        maps = awq.FC_FCS_MAP[kind], awq.NORM_FCS_MAP[kind]
        if search:
            awq.awq_layers(layers, *maps, statistics["absmean"], statistics["ratios"], GROUP, device)
        else:
            awq.smooth_layers(layers, *maps, statistics["absmax"], GROUP, device)
        with torch.no_grad():
            for layer in layers.values():
                layer.to(device)
                for linear in _linears(layer).values():
                    linear.weight.data = awq.pseudo_quantize_tensor(linear.weight.data, 4, GROUP)
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
    groups = weight.view(-1, GROUP).abs()
    return (groups / groups.amax(1, keepdim=True).clamp(min=1e-4)).view(weight.shape).mean(0)


def _rounded(weight: torch.Tensor, x: torch.Tensor, rounding: str) -> torch.Tensor:
    flat = x.reshape(-1, x.shape[-1])
    if rounding == "compensated":
        return _compensated(weight, flat.T @ flat / len(flat))
    groups = weight.view(len(weight), -1, GROUP)
    if rounding == "nearest":
        return _on_grid(groups, *_grid(groups, 1.0)).view_as(weight)
    importance = flat.square().mean(0).view(1, -1, GROUP)
    return _on_grid(groups, *_best_grid(groups, importance)).view_as(weight)


def _grid(groups: torch.Tensor, part: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Step and zero point of each group, over a part of its range."""
    high, low = groups.amax(-1, keepdim=True) * part, groups.amin(-1, keepdim=True) * part
    step = (high - low).clamp(min=1e-5) / STEPS
    return step, (-torch.round(low / step)).clamp(0, STEPS)


def _on_grid(groups: torch.Tensor, step: torch.Tensor, zero: torch.Tensor) -> torch.Tensor:
    return (torch.clamp(torch.round(groups / step) + zero, 0, STEPS) - zero) * step


def _best_grid(groups: torch.Tensor, importance: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    least, step, zero = None, None, None
    for part in RANGES:
        one_step, one_zero = _grid(groups, part)
        error = ((_on_grid(groups, one_step, one_zero) - groups).square() * importance).sum(-1, keepdim=True)
        if least is None:
            least, step, zero = error, one_step, one_zero
            continue
        better = error < least
        least = torch.where(better, error, least)
        step, zero = torch.where(better, one_step, step), torch.where(better, one_zero, zero)
    return step, zero


def _compensated(weight: torch.Tensor, hessian: torch.Tensor) -> torch.Tensor:
    """GPTQ with asymmetric groups in the order of the columns."""
    weight, rounded = weight.clone(), torch.zeros_like(weight)
    importance = hessian.diag().clone()
    unused = importance == 0
    hessian = hessian.clone()
    hessian[unused, unused] = 1
    hessian.diagonal().add_(DAMPING * importance[~unused].mean())
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(hessian))
    upper = torch.linalg.cholesky(inverse, upper=True)
    for start in range(0, weight.shape[1], GROUP):
        end = start + GROUP
        group, block = weight[:, start:end].clone(), upper[start:end, start:end]
        step, zero = _best_grid(group, importance[None, start:end])
        errors = torch.zeros_like(group)
        for column in range(GROUP):
            exact = group[:, column : column + 1]
            value = _on_grid(exact, step, zero)
            rounded[:, start + column : start + column + 1] = value
            error = (exact - value) / block[column, column]
            group[:, column:] -= error * block[column : column + 1, column:]
            errors[:, column : column + 1] = error
        weight[:, end:] -= errors @ upper[start:end, end:]
    return rounded


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
