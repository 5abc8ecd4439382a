"""LMDeploy's 4-bit layout, written a matrix at a time.

`WeightOnlyQLinear.from_linear` packs column by column, in some hundred thousand small GPU kernels for a model
of 135 million parameters. `pack_fast` replaces the packing by a few operations on whole matrices, with the
same result. Imports torch and lmdeploy; the quantisation's worker runs it.
"""

from typing import Any

BITS = 4
_PER_INT32 = 32 // BITS
_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
"""Which of eight neighbouring columns each four bits of an int32 hold, the lowest bits first."""


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
