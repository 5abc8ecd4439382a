"""Error-compensated W4A16 of a tiny model on the CPU, read back as an engine reads it."""

import json
from pathlib import Path

import pytest

from core.errors import InputError
from core.jobs.registry import JobState
from core.models.checkpoint import read_checkpoint
from core.models.job import read_provenance
from tests.engines.awq_tiny_model import write_tiny_llama
from tests.engines.test_awq_job import finish, left_over, on_cpu, settings, tiny  # noqa: F401 - fixtures

torch = pytest.importorskip("torch")
pytest.importorskip("lmdeploy")
pytestmark = pytest.mark.timeout(900)

SAMPLES = 24
LENGTH = 32


def loaded(folder: Path):
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def samples():
    torch.manual_seed(3)
    return torch.randint(3, 500, (SAMPLES, LENGTH))


def dequantized(folder: Path, original):
    """The original model with the weights of an AWQ checkpoint, unpacked by its published layout."""
    from safetensors.torch import load_file

    order = (0, 4, 1, 5, 2, 6, 3, 7)  # where each of eight columns lies in an int32

    def unpacked(values):
        return torch.stack([(values >> (4 * place)) & 15 for place in order], -1).flatten(-2).float()

    stored = {}
    for file in folder.glob("*.safetensors"):
        stored |= load_file(file)
    state = original.state_dict()
    for name in stored:
        if name.endswith(".qweight"):
            stem = name.removesuffix(".qweight")
            scales = stored[f"{stem}.scales"].float().repeat_interleave(128, 0)
            zeros = unpacked(stored[f"{stem}.qzeros"]).repeat_interleave(128, 0)
            state[f"{stem}.weight"] = ((unpacked(stored[name]) - zeros) * scales).t().contiguous()
        elif name.endswith(".weight"):
            state[name] = stored[name].float()
    original.load_state_dict(state)
    return original


def quantized(source: Path, out: Path, *, search_scale: bool) -> list[tuple[int, int]]:
    from lmdeploy.lite.apis.calibrate import load_model_and_tokenizer

    from core.models.awq.rounding import quantize_llama, save

    _, _, model, tokenizer, _, _ = load_model_and_tokenizer(str(source), dtype="float16", work_dir=str(out))
    layers: list[tuple[int, int]] = []
    quantize_llama(
        model,
        list(samples().split(1)),
        device="cpu",
        search_scale=search_scale,
        on_layer=lambda done, total: layers.append((done, total)),
    )
    save(model, tokenizer, out)
    return layers


@pytest.mark.parametrize("search_scale", [False, True])
def test_what_is_written_answers_almost_as_the_original(tmp_path: Path, search_scale: bool) -> None:
    source = write_tiny_llama(tmp_path / "tiny")
    layers = quantized(source, tmp_path / "awq", search_scale=search_scale)

    assert layers == [(1, 2), (2, 2)]
    facts = read_checkpoint(tmp_path / "awq")
    assert (facts.quantization, facts.group_size) == ("awq", 128)
    assert (
        json.loads((tmp_path / "awq" / "config.json").read_text("utf-8"))["quantization_config"]["bits"] == 4
    )
    original = loaded(source)
    with torch.no_grad():
        hidden = original.model(samples()).last_hidden_state
        rounded = dequantized(tmp_path / "awq", original).model(samples()).last_hidden_state
    error = (hidden - rounded).square().mean() / hidden.square().mean()
    assert error < 0.02


def test_it_is_a_job_with_progress_and_a_provenance(settings, tiny, tmp_path: Path) -> None:  # noqa: F811
    file = tmp_path / "own.txt"
    file.write_text("Power is torque times angular speed. " * 200)

    status, progress = finish(
        settings, tiny, on_cpu(calibration=str(file), samples=4, rounding="compensated", search_scale=True)
    )

    assert status.state is JobState.DONE, status.record.error
    assert progress == sorted(progress)
    provenance = read_provenance(settings.models_dir / "tiny-llama-awq")
    assert provenance is not None
    assert (provenance.tool, provenance.rounding, provenance.batch_size) == ("lmdyno", "compensated", 4)
    assert provenance.search_scale
    assert left_over(settings) == []


def test_another_structure_is_refused(tmp_path: Path) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    from core.models.awq.rounding import quantize_llama

    model = GPT2LMHeadModel(GPT2Config(vocab_size=64, n_embd=32, n_layer=1, n_head=2))
    with pytest.raises(InputError) as caught:
        quantize_llama(
            model, [torch.ones(1, 4, dtype=torch.long)], device="cpu", search_scale=True, on_layer=print
        )
    assert caught.value.code == "rounding-unsupported"
