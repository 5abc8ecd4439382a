"""Texts as torch 2.12, transformers 5.23, lmdeploy 0.18 and datasets print them."""

import pytest

from core.errors import EngineNotInstalled, EngineOutOfMemory
from core.models.awq.failures import explain

CASES = [
    (
        "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total",
        "engine-out-of-memory",
    ),
    (
        "RuntimeError: [enforce fail at alloc_cpu.cpp:121] err == 0. DefaultCPUAllocator: can't allocate"
        " memory: you tried to allocate 17179869184 bytes.",
        "host-out-of-memory",
    ),
    ("Traceback (most recent call last):\nMemoryError", "host-out-of-memory"),
    (
        "    from datasets import VerificationMode, load_dataset\n"
        "ModuleNotFoundError: No module named 'datasets'",
        "datasets-missing",
    ),
    (
        "ConnectionError: Couldn't reach 'wikitext' on the Hub (LocalEntryNotFoundError)",
        "calibration-unreachable",
    ),
    (
        "huggingface_hub.errors.OfflineModeIsEnabled: Cannot reach https://…: offline mode is enabled.",
        "calibration-unreachable",
    ),
    (
        "datasets.exceptions.DatasetNotFoundError: Dataset 'wikitext' doesn't exist on the Hub or cannot be "
        "accessed.",
        "calibration-unreachable",
    ),
    (
        "httpx.ConnectError: [Errno -3] Temporary failure in name resolution",
        "calibration-unreachable",
    ),
    ("ModuleNotFoundError: No module named 'lmdeploy'", "engine-not-installed"),
    (
        '  File "lmdeploy/lite/quantization/awq.py", line 157, in smooth_ln_fcs\n'
        "    assert torch.isnan(p).sum() == 0\n"
        "           ^^^^^^^^^^^^^^^^^^^^^^^^^\n"
        "AssertionError",
        "not-a-number",
    ),
    (
        "    assert org_w_shape[-1] % w_group_size == 0\n"
        "           ^^^^^^^^^^^^^^^^^^^^^^^^^\n"
        "AssertionError",
        "sizes-not-divisible",
    ),
    (
        "RuntimeError: Currently, quantification and calibration of GPT2LMHeadModel are not supported. The "
        "supported model types are InternLM2ForCausalLM, …",
        "architecture-not-quantisable",
    ),
    (
        "RuntimeError: The NVIDIA driver on your system is too old (found version 12020). Please update",
        "driver-too-old",
    ),
    ("RuntimeError: Found no NVIDIA driver on your system.", "no-gpu"),
    ("RuntimeError: No CUDA GPUs are available", "no-gpu"),
    (
        "RuntimeError: Your device does not supports bf16(bfloat16), please change to fp16(float16)",
        "no-bfloat16",
    ),
    ("OSError: [Errno 28] No space left on device", "disk-full"),
    (
        "ValueError: The repository /m contains custom code which must be executed to load the model.",
        "needs-remote-code",
    ),
]


@pytest.mark.parametrize(("text", "code"), CASES)
def test_a_failure_is_recognised(text: str, code: str) -> None:
    error = explain(text)

    assert error is not None
    assert error.code == code
    assert error.hint


def test_names_are_put_in() -> None:
    missing = explain("ModuleNotFoundError: No module named 'accelerate'")
    assert isinstance(missing, EngineNotInstalled)
    assert "accelerate" in missing.message
    unsupported = explain(
        "calibration of X are\nquantification and calibration of GPT2LMHeadModel are not supported"
    )
    assert unsupported is not None
    assert "GPT2LMHeadModel" in unsupported.message


def test_memory_has_its_own_class() -> None:
    assert isinstance(explain("CUDA out of memory"), EngineOutOfMemory)


def test_the_unknown_stays_unknown() -> None:
    assert explain("ZeroDivisionError: division by zero") is None
