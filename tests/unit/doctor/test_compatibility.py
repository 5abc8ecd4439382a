import pytest

from core.doctor.compatibility import (
    breaks_llava,
    driver_needed,
    torch_serves,
    turbomind_serves,
    unmet_bounds,
)

LMDEPLOY = (
    "transformers!=5.0.*,!=5.5.0,!=5.7.*,>=4.56.0",
    "torch<=2.12.1,>=2.0.0",
    'triton<=3.7.1,>=3.4.0; sys_platform == "linux"',
    'triton<1; extra == "all"',
    "peft<=0.14.0",
)


@pytest.mark.parametrize(
    ("driver", "cuda_major", "needed"),
    [
        ("580.95.05", 13, None),
        ("570.172.08", 13, "580"),
        ("570.172.08", 12, None),
        ("470.82.01", 12, "525"),
        ("570.172.08", 99, None),
        ("something", 13, None),
    ],
)
def test_each_cuda_has_its_oldest_driver(driver, cuda_major, needed):
    assert driver_needed(driver, cuda_major) == needed


@pytest.mark.parametrize(
    ("capability", "served"),
    [
        ((6, 1), False),  # Pascal
        ((7, 0), True),
        ((7, 5), True),
        ((8, 0), True),
        ((8, 9), True),
        ((9, 0), True),
        ((10, 0), True),
        ((10, 3), False),  # B300: sm_100a runs on 10.0 alone
        ((12, 0), True),
        ((12, 1), False),
    ],
)
def test_turbomind_s_wheel_serves_these_gpus(capability, served):
    assert turbomind_serves(capability) is served


def test_torch_runs_on_what_it_was_compiled_or_can_be_translated_for():
    built = ("sm_75", "sm_80", "sm_90a", "compute_120")
    assert torch_serves((7, 5), built)
    assert torch_serves((8, 9), built)
    assert torch_serves((9, 0), built)
    assert torch_serves((12, 1), built)
    assert not torch_serves((7, 0), built)
    assert not torch_serves((10, 0), built)
    assert not torch_serves((9, 0), ("garbage",))


def test_bounds_of_lmdeploy_are_held_against_what_is_installed():
    good = {"transformers": "5.23.0", "torch": "2.12.1+cu130", "triton": "3.7.1", "peft": "0.20"}
    assert unmet_bounds(LMDEPLOY, good) == ()
    broken = unmet_bounds(LMDEPLOY, good | {"transformers": "5.7.2", "torch": "2.13.0"})
    assert [text.split(" is ")[0] for text in broken] == ["transformers 5.7.2", "torch 2.13.0"]
    assert unmet_bounds(("not ! a requirement",), good) == ()


def test_llava_fails_with_older_transformers():
    assert breaks_llava("5.17.0")
    assert not breaks_llava("5.23.0")
