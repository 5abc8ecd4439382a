"""Rounding of weights to what W4A16 can hold, and LMDeploy's 4-bit layout.

16 evenly spaced values for each group of 128 neighbours: a matrix `weight` is [outputs, inputs] in float32
throughout, with a multiple of 128 inputs. LMDeploy's `WeightOnlyQLinear.from_linear` packs column by column,
in some hundred thousand small GPU kernels for a model of 135 million parameters; `pack_fast` replaces the
packing by a few operations on whole matrices, with the same result.

LMDeploy rounds each weight to the nearest of its group's 16 values. `quantize_llama` minimises the error of
what a layer puts out for the calibration's inputs, as they arrive through the layers that are rounded
already. The demo model loses a third less that way than by LMDeploy's best (docs/measurements/quality.md).
It takes models of Llama's structure, among them InternLM2 (converted), Qwen2 and Mistral. The checkpoint
stays on the CPU; one layer after another is on the GPU, in float32, with the calibration's hidden states: a
layer of 4,096 dimensions and 32,768 tokens take about 8 GB.

Imports torch and lmdeploy; the quantisation's worker runs it.
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

STEPS = 15
"""Between the least and the greatest of 16 values."""
RANGE_SHARES = tuple(1 - 0.04 * number for number in range(11))
"""Parts of a group's range that are tried: a narrower one cuts off outliers, and has smaller steps."""
DAMPING = 0.01
"""Added to the diagonal of the inputs' second moments, as a part of its mean: they have to be invertible."""
Tensor: TypeAlias = Any  # torch is imported without types
BITS = 4
_PER_INT32 = 32 // BITS
_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
"""Which of eight neighbouring columns each four bits of an int32 hold, the lowest bits first."""
RATIOS = 20
"""How many scales are tried for each block, from none to all of what the inputs' sizes suggest."""
CHUNK = 16
"""Sequences that go through a layer at once."""
Module: TypeAlias = Any
Inputs: TypeAlias = dict[str, Tensor]
Arguments: TypeAlias = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Rounded:
    """Weights on their groups' values: `(values - zeros) * steps`, where a group shares step and zero."""

    values: Tensor
    """[outputs, inputs], whole numbers from 0 to 15."""
    steps: Tensor
    """[outputs, groups, 1], positive; float16 holds them exactly."""
    zeros: Tensor
    """[outputs, groups, 1], whole numbers from 0 to 15."""

    @property
    def weight(self) -> Tensor:
        """[outputs, inputs], what an engine computes with."""
        groups = self.values.view(len(self.values), -1, GROUP_SIZE)
        return ((groups - self.zeros) * self.steps).view_as(self.values)


def in_best_ranges(weight: Tensor, squares: Tensor) -> Rounded:
    """Round to the nearest value of the range that loses least, weighted by the inputs' mean squares."""
    groups = weight.view(len(weight), -1, GROUP_SIZE)
    steps, zeros = _best_spacing(groups, squares.view(1, -1, GROUP_SIZE))
    return Rounded(_values(groups, steps, zeros).view_as(weight), steps, zeros)


def compensated(weight: Tensor, moments: Tensor) -> Rounded:
    """Round column after column; those that follow take over each column's error (GPTQ, arXiv:2210.17323).

    `moments` is [inputs, inputs], the mean of x xᵀ over the calibration's inputs x. Groups have the ranges of
    `in_best_ranges`. Raises torch.linalg.LinAlgError for moments that are no numbers.
    """
    weight = weight.clone()
    squares = moments.diag().clone()
    unused = squares == 0
    moments = moments.clone()
    moments[unused, unused] = 1
    moments.diagonal().add_(DAMPING * squares[~unused].mean() if bool((~unused).any()) else 1.0)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(moments))
    upper = torch.linalg.cholesky(inverse, upper=True)
    values, steps, zeros = [], [], []
    for start in range(0, weight.shape[1], GROUP_SIZE):
        end = start + GROUP_SIZE
        group, block = weight[:, start:end].clone(), upper[start:end, start:end]
        step, zero = _best_spacing(group, squares[None, start:end])
        rounded, errors = torch.empty_like(group), torch.empty_like(group)
        for column in range(GROUP_SIZE):
            exact = group[:, column : column + 1]
            value = _values(exact, step, zero)
            error = (exact - (value - zero) * step) / block[column, column]
            group[:, column:] -= error * block[column : column + 1, column:]
            rounded[:, column : column + 1] = value
            errors[:, column : column + 1] = error
        weight[:, end:] -= errors @ upper[start:end, end:]
        values.append(rounded)
        steps.append(step)
        zeros.append(zero)
    return Rounded(torch.cat(values, 1), torch.stack(steps, 1), torch.stack(zeros, 1))


def _spacing(groups: Tensor, share: float) -> tuple[Tensor, Tensor]:
    """Step and zero of each group, over a share of its range."""
    high, low = groups.amax(-1, keepdim=True) * share, groups.amin(-1, keepdim=True) * share
    steps = ((high - low).clamp(min=1e-5) / STEPS).clamp(min=1e-7).half().float()
    return steps, (-torch.round(low / steps)).clamp(0, STEPS)


def _values(groups: Tensor, steps: Tensor, zeros: Tensor) -> Tensor:
    return torch.clamp(torch.round(groups / steps) + zeros, 0, STEPS)


def _best_spacing(groups: Tensor, importance: Tensor) -> tuple[Tensor, Tensor]:
    steps, zeros = _spacing(groups, RANGE_SHARES[0])
    least = _loss(groups, steps, zeros, importance)
    for share in RANGE_SHARES[1:]:
        narrower, its_zeros = _spacing(groups, share)
        loss = _loss(groups, narrower, its_zeros, importance)
        is_better = loss < least
        least = torch.where(is_better, loss, least)
        steps, zeros = torch.where(is_better, narrower, steps), torch.where(is_better, its_zeros, zeros)
    return steps, zeros


def _loss(groups: Tensor, steps: Tensor, zeros: Tensor, importance: Tensor) -> Tensor:
    rounded = (_values(groups, steps, zeros) - zeros) * steps
    return ((rounded - groups).square() * importance).sum(-1, keepdim=True)


def pack_fast() -> None:
    """Let LMDeploy pack with `packed`, from now on and in this process."""
    from lmdeploy.lite.quantization.modules import linear as lmdeploy_linear

    slow = lmdeploy_linear.WeightOnlyQLinear.from_linear.__func__

    def from_linear(
        cls: Any,  # noqa: ANN401 - lmdeploy's classes
        linear: Any,  # noqa: ANN401
        quantizer: Any,  # noqa: ANN401
        awq_layout: bool = True,
        qparams: Any = None,  # noqa: ANN401
    ) -> Any:  # noqa: ANN401
        if not awq_layout or quantizer.bits != BITS or qparams is None or qparams.zero_points is None:
            return slow(cls, linear, quantizer, awq_layout, qparams)
        made = cls(
            linear.in_features,
            linear.out_features,
            linear.bias is not None,
            BITS,
            quantizer.symmetry,
            quantizer.group_size,
        )
        made.bias = linear.bias
        made.qweight = packed(linear.weight.t())
        made.scales = qparams.scales.squeeze(-1).t().contiguous()
        made.qzeros = packed(qparams.zero_points.squeeze(-1).t())
        return made.to("cpu")

    lmdeploy_linear.WeightOnlyQLinear.from_linear = classmethod(from_linear)


def packed(values: Any) -> Any:  # noqa: ANN401 - tensors
    """Whole numbers from 0 to 15, eight neighbours of a row in one int32."""
    import torch

    rows, columns = values.shape
    eights = values.to(torch.int32).reshape(rows, columns // _PER_INT32, _PER_INT32)
    result = torch.zeros(eights.shape[:2], dtype=torch.int32, device=values.device)
    for place, column in enumerate(_ORDER):
        result |= eights[..., column] << (place * BITS)
    return result


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
