"""Texts as torch 2.12, transformers 5.23, lmdeploy 0.18 and datasets print them."""

import pytest

from core.errors import EngineNotInstalled, EngineOutOfMemory
from core.models.awq.quantiser import PassProgress, explain

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


CALIBRATING = [f"model.layers.{n}, samples: 4, max gpu memory: 0.10 GB" for n in range(3)]
SMOOTHING = [f"model.layers.{n} smooth weight done. max gpu memory: 0.10 GB" for n in range(3)]
PACKING = [
    f"model.layers.{n}.{name} weight {how}."
    for n in range(3)
    for name, how in (("self_attn.q_proj", "packed"), ("mlp.gate", "skipped"), ("mlp.experts.7.w1", "packed"))
]


def told(lines: list[str], *, calibrates: bool, search_scale: bool, on_gpu: bool) -> list[tuple[str, float]]:
    progress = PassProgress(3, calibrates=calibrates, search_scale=search_scale, on_gpu=on_gpu)
    return [said for line in lines if (said := progress.take(line))]


@pytest.mark.parametrize("search_scale", [False, True])
@pytest.mark.parametrize("on_gpu", [False, True])
def test_progress_never_goes_back_and_ends_before_the_result_is_saved(
    search_scale: bool, on_gpu: bool
) -> None:
    lines = [*CALIBRATING, *SMOOTHING, *PACKING]
    seen = told(lines, calibrates=True, search_scale=search_scale, on_gpu=on_gpu)

    shares = [share for _, share in seen]
    assert len(seen) == len(lines)
    assert shares == sorted(shares)
    assert shares[0] > 0
    assert shares[-1] < 1
    assert len(set(shares)) == 3 + 3 + 2  # packing begins where smoothing ends


def test_without_data_packing_is_all_there_is() -> None:
    seen = told(PACKING, calibrates=False, search_scale=False, on_gpu=True)

    assert seen[0] == ("Packing: layer 1 of 3", pytest.approx(0.02))
    assert seen[-1] == ("Packing: layer 3 of 3", pytest.approx(0.02 + 0.95 * 2 / 3))


def test_other_lines_say_nothing() -> None:
    lines = ["Move model.layers.0 to CPU.", "Loading calibrate dataset ...", "", "max gpu memory: 1 GB"]
    assert told(lines, calibrates=True, search_scale=False, on_gpu=True) == []


def test_what_came_before_lmdeploy_counts() -> None:
    progress = PassProgress(2, calibrates=True, search_scale=True, on_gpu=True, done_before=0.2)

    seen = [progress.take(line) for line in _THREE_LINES]
    shares = [told[1] for told in seen if told]

    assert shares == sorted(shares)
    assert 0.2 < shares[0] < shares[-1] < 1


_THREE_LINES = (
    "model.layers.0, samples: 2, max gpu memory: 0.1 GB",
    "model.layers.1, samples: 2, max gpu memory: 0.1 GB",
    "model.layers.1 smooth weight done. max gpu memory: 0.1 GB",
)
