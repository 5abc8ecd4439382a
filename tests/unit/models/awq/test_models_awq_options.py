import json
from itertools import pairwise
from pathlib import Path

import pytest

from core.config.lanes import demo_model
from core.domain.specs import ModelSpec
from core.errors import InputError
from core.jobs.registry import JobFolder, Jobs, JobSpec
from core.models import job as models_job
from core.models.awq.check import Concern
from core.models.awq.options import MAX_BYTES, AwqOptions, python_docs, read_text, sample_starts
from core.models.job import awq_folder, prepare_demo_awq, quantize, read_provenance
from core.settings import Settings
from core.telemetry.samples import GpuFacts

GPUS = (
    GpuFacts(index=0, name="H100", total_bytes=80, free_bytes=10, uuid="GPU-a"),
    GpuFacts(index=1, name="H100", total_bytes=80, free_bytes=70, uuid="GPU-b"),
)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path, lanes_file=tmp_path / "lanes.toml", database_url="sqlite://")


@pytest.fixture
def model(tmp_path: Path) -> ModelSpec:
    (tmp_path / "source").mkdir()
    return ModelSpec(name="small-llama", checkpoint=str(tmp_path / "source"))


@pytest.fixture
def queued(monkeypatch: pytest.MonkeyPatch, settings: Settings) -> list[JobSpec]:
    """Jobs that would have been started; their folders are there, and nothing runs."""
    specs: list[JobSpec] = []

    def start(_: Jobs, spec: JobSpec) -> str:
        JobFolder(settings.home / "jobs" / spec.id).create(spec)
        specs.append(spec)
        return spec.id

    monkeypatch.setattr(Jobs, "start", start)
    monkeypatch.setattr(models_job, "check_awq", lambda *_: ())
    return specs


def test_the_job_knows_its_gpu_and_works_offline(
    settings: Settings, model: ModelSpec, queued: list[JobSpec]
) -> None:
    job_id = quantize(settings, model, AwqOptions(), gpus=GPUS)

    (spec,) = queued
    assert spec.id == job_id
    assert spec.device == "gpu1"
    assert spec.env == {"CUDA_VISIBLE_DEVICES": "GPU-b", "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    assert spec.arguments["target"] == str(settings.models_dir / "small-llama-awq")


def test_a_named_set_may_use_the_network(settings: Settings, model: ModelSpec, queued: list[JobSpec]) -> None:
    quantize(settings, model, AwqOptions(calibration="c4", device="cpu"), gpus=GPUS)

    assert queued[0].env == {"CUDA_VISIBLE_DEVICES": ""}
    assert queued[0].device == "cpu"


def test_the_half_written_result_is_hidden_beside_its_place(
    settings: Settings, model: ModelSpec, queued: list[JobSpec], tmp_path: Path
) -> None:
    quantize(settings, model, AwqOptions(out=str(tmp_path / "x" / "small-llama-w4")), gpus=GPUS)

    (scratch,) = map(Path, queued[0].scratch)
    assert scratch.parent == tmp_path / "x"
    assert scratch.parent.is_dir()
    assert scratch.name.startswith(".small-llama-w4.")
    assert queued[0].arguments["scratch"] == str(scratch)


def test_a_calibration_file_is_found_from_any_folder(
    settings: Settings,
    model: ModelSpec,
    queued: list[JobSpec],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    quantize(settings, model, AwqOptions(calibration="own.txt"), gpus=GPUS)
    assert queued[0].arguments["options"]["calibration"] == str(tmp_path / "own.txt")


def test_one_result_is_written_by_one_job(
    settings: Settings, model: ModelSpec, queued: list[JobSpec]
) -> None:
    quantize(settings, model, AwqOptions(), gpus=GPUS)

    with pytest.raises(InputError) as caught:
        quantize(settings, model, AwqOptions(), gpus=GPUS)

    assert caught.value.code == "already-running"
    assert len(queued) == 1
    quantize(settings, model, AwqOptions(out=str(settings.models_dir / "other")), gpus=GPUS)


def test_a_blocking_finding_keeps_the_job_from_starting(
    settings: Settings, model: ModelSpec, queued: list[JobSpec], monkeypatch: pytest.MonkeyPatch
) -> None:
    warning = Concern(InputError("slow"), blocking=False)
    problem = Concern(InputError("no", code="sizes-not-divisible"), blocking=True)
    monkeypatch.setattr(models_job, "check_awq", lambda *_: (warning, problem))

    with pytest.raises(InputError) as caught:
        quantize(settings, model, AwqOptions(), gpus=GPUS)

    assert caught.value.code == "sizes-not-divisible"
    assert queued == []


def test_the_demo_is_quantised_once(
    settings: Settings, queued: list[JobSpec], monkeypatch: pytest.MonkeyPatch
) -> None:
    demo = demo_model(settings)
    Path(demo.checkpoint).mkdir(parents=True)
    monkeypatch.setattr(models_job.Nvml, "devices", lambda _: GPUS)

    job_id = prepare_demo_awq(settings)
    assert job_id == queued[0].id
    assert prepare_demo_awq(settings) == job_id  # the running job's

    assert demo.awq is not None
    Path(demo.awq).mkdir()
    assert prepare_demo_awq(settings) is None
    assert len(queued) == 1


def test_where_the_result_goes(settings: Settings, model: ModelSpec) -> None:
    assert awq_folder(settings, model, AwqOptions()) == settings.models_dir / "small-llama-awq"
    own = ModelSpec(name="a", checkpoint="/m/a", awq="/m/a-w4")
    assert awq_folder(settings, own, AwqOptions()) == Path("/m/a-w4")
    assert awq_folder(settings, own, AwqOptions(out="/x")) == Path("/x")


def test_provenance_of_foreign_checkpoints(tmp_path: Path) -> None:
    assert read_provenance(tmp_path) is None
    (tmp_path / "provenance.json").write_text("{}")
    with pytest.raises(InputError):
        read_provenance(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rounding": "stochastic"}, "rounding is stochastic"),
        ({"rounding": "compensated", "calibration": "none"}, "needs a calibration text"),
    ],
)
def test_a_rounding_that_cannot_be_is_refused(changes: dict[str, str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        AwqOptions(**changes)


def test_a_text_file_is_one_document(tmp_path: Path) -> None:
    file = tmp_path / "own.txt"
    file.write_text("Leistung = Drehmoment × Winkelgeschwindigkeit\n\n功率")

    text = read_text(file)

    assert text.name == "own.txt"
    assert text.documents == ("Leistung = Drehmoment × Winkelgeschwindigkeit\n\n功率",)


def test_jsonl_holds_texts_and_conversations(tmp_path: Path) -> None:
    file = tmp_path / "own.jsonl"
    messages = [{"role": "user", "content": "Hi"}]
    file.write_text(f"{json.dumps({'text': 'a'})}\n\n{json.dumps({'messages': messages})}\n")

    assert read_text(file).documents == ("a", messages)


def test_the_digest_follows_the_content(tmp_path: Path) -> None:
    digests = set()
    for content in ("a", "b", "a"):
        (tmp_path / "x.txt").write_text(content)
        digests.add(read_text(tmp_path / "x.txt").sha256)
    assert len(digests) == 2


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"\xff\xfe", "not a UTF-8"),
        (b'{"text": "a"}\nno json', "line 2: not valid JSON"),
        (b'{"title": "a"}', "line 1: neither text nor messages"),
        (b'{"messages": ["a"]}', "line 1: neither"),
        (b"[1]", "line 1: neither"),
    ],
)
def test_what_is_wrong_with_a_file_is_told(tmp_path: Path, content: bytes, said: str) -> None:
    file = tmp_path / "own.jsonl"
    file.write_bytes(content)
    with pytest.raises(InputError, match=said) as caught:
        read_text(file)
    assert caught.value.code == "calibration-unreadable"


def test_a_corpus_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "own.txt"
    with file.open("wb") as stream:
        stream.truncate(MAX_BYTES + 1)
    with pytest.raises(InputError, match="64 MiB"):
        read_text(file)


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No such file"):
        read_text(tmp_path / "none.txt")


def test_pythons_own_documentation_is_enough_for_the_demo() -> None:
    text = python_docs()

    characters = sum(len(document) for document in text.documents)
    assert characters > 32 * 1024 * 6
    assert "pydoc_data" in text.name


@pytest.mark.parametrize(
    ("tokens", "samples", "seqlen"), [(100, 10, 10), (107, 10, 10), (1000, 3, 10), (7, 1, 7)]
)
def test_samples_are_spread_without_overlap(tokens: int, samples: int, seqlen: int) -> None:
    starts = sample_starts(tokens, samples, seqlen)

    assert len(starts) == samples
    assert all(later - earlier >= seqlen for earlier, later in pairwise(starts))
    assert starts[-1] + seqlen <= tokens
    assert starts[-1] + 2 * max(seqlen, tokens // samples) > tokens


@pytest.mark.parametrize(
    ("tokens", "said"),
    [(95, "9 samples of 10 tokens instead of 10"), (3, "0 samples of 10 tokens instead of 10")],
)
def test_too_little_text_says_how_much_it_gives(tokens: int, said: str) -> None:
    with pytest.raises(InputError, match=said) as caught:
        sample_starts(tokens, 10, 10)
    assert caught.value.code == "calibration-too-short"
