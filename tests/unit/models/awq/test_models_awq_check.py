import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from core.domain.specs import ModelSpec
from core.errors import EngineNotInstalled, EngineOutOfMemory, InputError
from core.models.awq import check as awq_check
from core.models.awq.check import Concern, QuantiserStack, ask_stack, check_awq, choose_gpu, result_bytes
from core.models.awq.options import AwqOptions, CalibrationSource
from core.models.checkpoint import CheckpointFacts
from core.models.model_config import Attention, AttentionKind
from core.models.weight_files import Quantization
from core.telemetry.samples import GpuFacts

GIB = 2**30
FACTS = CheckpointFacts(
    architecture="LlamaForCausalLM",
    model_type="llama",
    layers=24,
    hidden_size=2048,
    heads=16,
    kv_heads=8,
    head_dim=128,
    intermediate_size=8192,
    vocab_size=92544,
    tie_word_embeddings=False,
    dtype="float16",
    max_position_embeddings=32768,
    quantized=None,
    weight_bytes=3_778_000_000,
    parameters=1_889_000_000,
    linear_parameters=1_509_949_440,
    counted=False,
    attention=Attention(AttentionKind.PLAIN),
    experts=None,
    expert_intermediate_size=None,
)
STACK = QuantiserStack(
    lmdeploy="0.18.0",
    missing=None,
    quantisable=("LlamaForCausalLM", "MistralForCausalLM", "Qwen3MoeForCausalLM"),
    calibratable=("LlamaForCausalLM", "MistralForCausalLM"),
    servable=("LlamaForCausalLM", "Qwen3MoeForCausalLM"),
    turbomind_problem=None,
    has_datasets=True,
)
GPU = GpuFacts(index=0, name="H100", total_bytes=80 * GIB, free_bytes=70 * GIB, uuid="GPU-0")
DEFAULTS = AwqOptions()
BIG_HOST = SimpleNamespace(total_bytes=512 * GIB, available_bytes=500 * GIB)


@pytest.fixture(autouse=True)
def roomy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(awq_check, "host_memory", lambda: BIG_HOST)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=500 * GIB))


@pytest.fixture
def find(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """The findings as {code: finding} for a checkpoint with these facts."""

    def find(
        options: AwqOptions = DEFAULTS,
        *,
        gpus: tuple[GpuFacts, ...] = (GPU,),
        stack: QuantiserStack = STACK,
        target: str = "small-llama-awq",
        **facts: object,
    ) -> dict[str, Concern]:
        monkeypatch.setattr(awq_check, "read_checkpoint", lambda path: replace(FACTS, **facts))
        checkpoint = tmp_path / "small-llama"
        checkpoint.mkdir(exist_ok=True)
        model = ModelSpec(name="small-llama", checkpoint=str(checkpoint))
        findings = check_awq(model, options, tmp_path / target, gpus, stack=lambda python: stack)
        return {finding.problem.code: finding for finding in findings}

    return find


def test_nothing_stands_in_the_way_of_a_llama(find) -> None:
    assert find() == {}


@pytest.mark.parametrize(
    ("facts", "code"),
    [
        ({"hidden_size": 576, "head_dim": 36}, "sizes-not-divisible"),
        ({"intermediate_size": 1000}, "sizes-not-divisible"),
        ({"expert_intermediate_size": 100}, "sizes-not-divisible"),
        ({"quantized": Quantization(method="awq")}, "already-quantised"),
        ({"architecture": "GPT2LMHeadModel"}, "architecture-not-quantisable"),
        ({"architecture": "MistralForCausalLM"}, "architecture-not-servable"),
        ({"architecture": "Qwen3MoeForCausalLM"}, "architecture-not-calibratable"),
    ],
)
def test_a_model_that_can_not_be_quantised_is_refused(find, facts: dict[str, object], code: str) -> None:
    findings = find(**facts)

    assert list(findings) == [code]
    assert findings[code].blocking
    assert findings[code].problem.hint


def test_what_can_not_be_calibrated_goes_without_data(find) -> None:
    assert find(AwqOptions(calibration="none"), architecture="Qwen3MoeForCausalLM") == {}


def test_an_existing_result_is_kept(find, tmp_path: Path) -> None:
    (tmp_path / "small-llama-awq").mkdir()
    assert find()["result-exists"].blocking


def test_a_name_that_hides_the_model_is_warned_of(find) -> None:
    assert not find(target="out")["name-without-model"].blocking


def test_disk(find, monkeypatch: pytest.MonkeyPatch) -> None:
    needed = result_bytes(FACTS)
    # 1.45 GiB is what `auto_awq` wrote for these dimensions.
    assert needed == pytest.approx(1.45 * GIB, rel=0.05)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=needed))
    assert find()["disk-full"].blocking


def test_host_memory(find, monkeypatch: pytest.MonkeyPatch) -> None:
    busy = SimpleNamespace(total_bytes=16 * GIB, available_bytes=2 * GIB)
    monkeypatch.setattr(awq_check, "host_memory", lambda: busy)
    assert not find()["host-out-of-memory"].blocking
    small = SimpleNamespace(total_bytes=4 * GIB, available_bytes=2 * GIB)
    monkeypatch.setattr(awq_check, "host_memory", lambda: small)
    finding = find()["host-out-of-memory"]
    assert finding.blocking
    assert isinstance(finding.problem, EngineOutOfMemory)


def test_gpu_memory_grows_with_the_samples(find) -> None:
    taken = replace(GPU, free_bytes=2 * GIB)
    assert find(gpus=(taken,)) == {}
    options = AwqOptions(calibration="wikitext2", samples=128, seqlen=2048)
    assert not find(options, gpus=(taken,))["engine-out-of-memory"].blocking
    small = replace(GPU, total_bytes=4 * GIB, free_bytes=4 * GIB)
    assert find(options, gpus=(small,))["engine-out-of-memory"].blocking


def test_without_a_gpu_the_cpu_is_offered(find) -> None:
    finding = find(gpus=())["no-gpu"]
    assert finding.blocking
    assert "--device cpu" in finding.problem.hint
    assert list(find(AwqOptions(device="cpu"), gpus=())) == ["cpu-is-slow"]
    assert find(AwqOptions(device="cpu", calibration="none"), gpus=()) == {}


def test_named_sets_need_a_network_and_datasets(find) -> None:
    options = AwqOptions(calibration="wikitext2")
    findings = find(options, stack=replace(STACK, has_datasets=False))
    assert not findings["needs-network"].blocking
    assert findings["datasets-missing"].blocking


def test_a_missing_calibration_file_is_told(find) -> None:
    assert find(AwqOptions(calibration="no/such/file.txt"))["calibration-unreadable"].blocking


def test_a_result_that_can_not_be_served_here_is_warned_of(find) -> None:
    stack = replace(STACK, turbomind_problem="libcuda.so.1: cannot open shared object file")
    assert not find(stack=stack)["turbomind-not-available"].blocking


def test_a_checkpoint_that_is_not_here_is_one_finding(tmp_path: Path) -> None:
    model = ModelSpec(name="x", checkpoint=str(tmp_path / "x"))
    (finding,) = check_awq(model, AwqOptions(), tmp_path / "x-awq", (GPU,))
    assert (finding.problem.code, finding.blocking) == ("model-not-here", True)


def test_the_gpu_with_most_room_is_taken() -> None:
    other = replace(GPU, index=1, free_bytes=75 * GIB)
    assert choose_gpu(AwqOptions(), (GPU, other)) is other
    assert choose_gpu(AwqOptions(device="cuda:0"), (GPU, other)) is GPU
    assert choose_gpu(AwqOptions(device="cpu"), (GPU, other)) is None
    with pytest.raises(InputError, match="no GPU 2"):
        choose_gpu(AwqOptions(device="cuda:2"), (GPU, other))


def stand_in_python(tmp_path: Path, script: str) -> str:
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\n{script}\n")
    python.chmod(0o755)
    return str(python)


def test_a_python_without_lmdeploy_is_told(tmp_path: Path) -> None:
    facts = (
        '{"lmdeploy": null, "missing": "lmdeploy", "quantisable": [], "calibratable": [], "servable": [], '
        '"turbomind_problem": null, "has_datasets": false}'
    )
    with pytest.raises(EngineNotInstalled) as caught:
        ask_stack(stand_in_python(tmp_path, f"echo noise; echo '{facts}'"))
    assert "pip install" in caught.value.hint


def test_a_broken_lmdeploy_names_its_reason(tmp_path: Path) -> None:
    python = stand_in_python(tmp_path, "echo 'RuntimeError: torchvision::nms does not exist' >&2; exit 1")
    with pytest.raises(awq_check.EngineError, match="torchvision::nms") as caught:
        ask_stack(python)
    assert caught.value.code == "lmdeploy-broken"


def test_no_python(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        ask_stack(str(tmp_path / "none"))
    assert caught.value.code == "no-python"


@pytest.mark.parametrize(
    "wrong",
    [
        {"samples": 0},
        {"seqlen": 1},
        {"batch_size": 0},
        {"dtype": "auto"},
        {"device": "gpu"},
        {"device": "cpu", "dtype": "bfloat16"},
    ],
)
def test_options_out_of_range_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(InputError):
        AwqOptions(**wrong)


@pytest.mark.parametrize(
    ("calibration", "source"),
    [
        ("none", CalibrationSource.NONE),
        ("own-answers", CalibrationSource.OWN_ANSWERS),
        ("python-docs", CalibrationSource.PYTHON_DOCS),
        ("c4", CalibrationSource.NAMED_SET),
        ("./c4", CalibrationSource.FILE),
        ("own.jsonl", CalibrationSource.FILE),
    ],
)
def test_what_a_calibration_is(calibration: str, source: CalibrationSource) -> None:
    options = AwqOptions(calibration=calibration)
    assert options.source is source
    assert (options.calibration_file is not None) == (source is CalibrationSource.FILE)
