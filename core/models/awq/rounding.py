"""Rounding of weights to what W4A16 can hold, and LMDeploy's 4-bit layout, written a matrix at a time.

16 evenly spaced values for each group of 128 neighbours: `weight` is [outputs, inputs] in float32 throughout,
with a multiple of 128 inputs. LMDeploy's `WeightOnlyQLinear.from_linear` packs column by column, in some
hundred thousand small GPU kernels for a model of 135 million parameters; `pack_fast` replaces the packing by
a few operations on whole matrices, with the same result. Imports torch and lmdeploy; the quantisation's
worker runs it.
"""

from dataclasses import dataclass
from typing import Any, TypeAlias

import torch

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
