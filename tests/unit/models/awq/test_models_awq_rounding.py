"""The fast packing against LMDeploy's own."""

import pytest

pytestmark = pytest.mark.engine


@pytest.mark.parametrize("bias", [False, True])
def test_packs_to_the_bit_what_lmdeploy_packs(monkeypatch: pytest.MonkeyPatch, bias: bool) -> None:
    pytest.importorskip("lmdeploy")
    import torch
    from lmdeploy.lite.quantization import WeightQuantizer
    from lmdeploy.lite.quantization.awq import pseudo_quantize_tensor
    from lmdeploy.lite.quantization.modules import WeightOnlyQLinear
    from lmdeploy.lite.utils import QParams

    from core.models.awq.rounding import pack_fast

    torch.manual_seed(0)
    linear = torch.nn.Linear(256, 64, bias=bias).half()
    linear.weight.data, scales, zeros = pseudo_quantize_tensor(
        linear.weight.data.float(), 4, 128, return_scale_zeros=True
    )
    arguments = (linear, WeightQuantizer(4, False, "per_group", 128))
    slow = WeightOnlyQLinear.from_linear(*arguments, qparams=QParams(scales, zeros))
    monkeypatch.setattr(WeightOnlyQLinear, "from_linear", WeightOnlyQLinear.from_linear)
    pack_fast()
    fast = WeightOnlyQLinear.from_linear(*arguments, qparams=QParams(scales, zeros))

    assert fast.state_dict().keys() == slow.state_dict().keys()
    for name, value in slow.state_dict().items():
        assert fast.state_dict()[name].dtype == value.dtype
        assert torch.equal(fast.state_dict()[name], value), name
