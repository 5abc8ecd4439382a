"""Rounding to 4 bits on small random matrices."""

import pytest

torch = pytest.importorskip("torch")

from core.models.awq.rounding import Rounded, compensated, in_best_ranges, pack_fast  # noqa: E402


@pytest.fixture
def weight():
    torch.manual_seed(0)
    return torch.randn(16, 256)


@pytest.fixture
def inputs():
    """Inputs of which neighbours have much in common, some large and one that is always zero."""
    torch.manual_seed(1)
    shared = torch.randn(2000, 8) @ torch.randn(8, 256)
    values = shared + 0.3 * torch.randn(2000, 256)
    values[:, 7] *= 20
    values[:, 9] = 0
    return values


def lost(weight, rounded: Rounded, inputs) -> float:
    return ((weight - rounded.weight) @ inputs.T).square().mean().item()


def rounded_to_nearest(weight):
    from lmdeploy.lite.quantization.awq import pseudo_quantize_tensor

    values, steps, zeros = pseudo_quantize_tensor(weight, 4, 128, return_scale_zeros=True)
    return Rounded(values, steps, zeros)


def test_values_are_what_four_bits_hold(weight, inputs):
    for rounded in (
        in_best_ranges(weight, inputs.square().mean(0)),
        compensated(weight, inputs.T @ inputs / len(inputs)),
    ):
        assert rounded.values.shape == weight.shape
        assert rounded.steps.shape == rounded.zeros.shape == (16, 2, 1)
        for whole in (rounded.values, rounded.zeros):
            assert torch.equal(whole, whole.round())
            assert whole.min() >= 0
            assert whole.max() <= 15
        assert torch.equal(rounded.steps, rounded.steps.half().float())


def test_weights_that_are_on_a_grid_stay_as_they_are(inputs):
    torch.manual_seed(2)
    grid = torch.randint(0, 16, (16, 256)).float()
    grid[:, ::128], grid[:, 1::128] = 0, 15
    weight = (grid - 8) * 0.25

    for rounded in (
        in_best_ranges(weight, inputs.square().mean(0)),
        compensated(weight, inputs.T @ inputs / len(inputs)),
    ):
        assert torch.allclose(rounded.weight, weight, atol=1e-5)


def test_searched_ranges_lose_less_of_the_output_than_the_nearest_values(weight, inputs):
    independent = torch.randn(2000, 256) * torch.rand(256).square()
    nearest = lost(weight, rounded_to_nearest(weight), independent)

    assert lost(weight, in_best_ranges(weight, independent.square().mean(0)), independent) < 0.95 * nearest


@pytest.mark.parametrize("columns", [128, 256])
def test_compensation_loses_a_fraction_where_inputs_have_much_in_common(weight, inputs, columns):
    """Within one group, and from one group to the next."""
    weight, inputs = weight[:, :columns], inputs[:, :columns]
    rounded = compensated(weight, inputs.T @ inputs / len(inputs))

    assert lost(weight, rounded, inputs) < 0.5 * lost(weight, rounded_to_nearest(weight), inputs)
    in_ranges = in_best_ranges(weight, inputs.square().mean(0))
    assert lost(weight, rounded, inputs) < 0.1 * lost(weight, in_ranges, inputs)


def test_inputs_that_are_all_zero_leave_finite_weights(weight):
    rounded = compensated(weight, torch.zeros(256, 256))

    assert torch.isfinite(rounded.weight).all()


def test_inputs_that_are_no_numbers_are_an_error(weight):
    with pytest.raises(torch.linalg.LinAlgError):
        compensated(weight, torch.full((256, 256), float("nan")))


@pytest.mark.parametrize("bias", [False, True])
def test_packing_fast_writes_to_the_bit_what_lmdeploy_packs(
    monkeypatch: pytest.MonkeyPatch, bias: bool
) -> None:
    pytest.importorskip("lmdeploy")
    from lmdeploy.lite.quantization import WeightQuantizer
    from lmdeploy.lite.quantization.awq import pseudo_quantize_tensor
    from lmdeploy.lite.quantization.modules import WeightOnlyQLinear
    from lmdeploy.lite.utils import QParams

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
