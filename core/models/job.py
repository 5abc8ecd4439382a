"""Background jobs that make models' files: W4A16 (AWQ) forms and the demo models, and which job makes a file.

`python -m core.models.job FOLDER FD` is the worker that prepares the demo models.
"""

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from core.codec import decode
from core.config import DEMO_NAME, VISION_DEMO_NAME
from core.config.lanes import awq_dir, demo_model
from core.domain.specs import LaneSpec, ModelSpec
from core.domain.turns import new_id
from core.errors import InputError
from core.i18n import N_
from core.jobs.registry import Jobs, JobSpec, JobStatus
from core.jobs.worker import Report, run
from core.models import demo_models
from core.models.awq.check import Concern, check_awq, choose_gpu
from core.models.awq.options import OWN_ANSWERS, AwqOptions, CalibrationSource, Rounding
from core.models.checkpoint import checkpoint_folder
from core.models.model_folders import PROVENANCE_FILE, Provenance
from core.settings import Settings, load_settings
from core.telemetry.nvml import Nvml
from core.telemetry.samples import GpuFacts

QUANTISING = "quantise"
DEMO_OPTIONS = AwqOptions(
    calibration=OWN_ANSWERS, samples=64, seqlen=512, search_scale=True, rounding=Rounding.COMPENSATED
)
PREPARING_DEMOS = "demo"


def awq_folder(settings: Settings, model: ModelSpec, options: AwqOptions) -> Path:
    """Return where the result goes: `options.out`, else the model's own AWQ folder."""
    chosen = options.out or model.awq
    return Path(chosen).expanduser().absolute() if chosen else awq_dir(settings, model.name)


def check_quantization(
    settings: Settings, model: ModelSpec, options: AwqOptions, *, gpus: Sequence[GpuFacts] | None = None
) -> tuple[Concern, ...]:
    """Concerns before the quantisation; a blocking one keeps `quantize` from starting.

    Takes ten seconds the first time, since lmdeploy is asked in a child process. `gpus` default to the
    machine's.
    """
    gpus = Nvml().devices() if gpus is None else gpus
    concerns = check_awq(model, options, awq_folder(settings, model, options), gpus)
    if _running_quantization(settings, awq_folder(settings, model, options)):
        busy = InputError(
            N_("Another job is already writing this result."),
            hint=N_("Wait for it to finish, or cancel it."),
            code="already-running",
        )
        return (*concerns, Concern(busy, blocking=True))
    return concerns


def quantize(
    settings: Settings, model: ModelSpec, options: AwqOptions, *, gpus: Sequence[GpuFacts] | None = None
) -> str:
    """Start the job and return its id; raises the first blocking concern.

    The result appears in its folder at once and whole, with a `provenance.json`; or not at all.
    """
    gpus = Nvml().devices() if gpus is None else gpus
    for concern in check_quantization(settings, model, options, gpus=gpus):
        if concern.blocking:
            raise concern.problem
    return Jobs(settings).start(_quantization(settings, model, options, choose_gpu(options, gpus)))


def prepare_demo_awq(settings: Settings) -> str | None:
    """Start quantising the prepared demo model, on a GPU, unless its W4A16 form is there.

    Returns the id of the job that makes it, perhaps one that runs already; None if there is nothing to do.
    Raises the first blocking concern.
    """
    model = demo_model(settings)
    target = awq_folder(settings, model, DEMO_OPTIONS)
    if target.exists():
        return None
    if running := _running_quantization(settings, target):
        return running.id
    return quantize(settings, model, DEMO_OPTIONS)


def read_provenance(folder: Path) -> Provenance | None:
    """Return how the checkpoint in a folder was made; None if LMDyno didn't make it.

    Raises InputError (`bad-record`) for a file that is none of ours.
    """
    try:
        content = (folder / PROVENANCE_FILE).read_bytes()
    except FileNotFoundError:
        return None
    return decode(Provenance, content)


def _running_quantization(settings: Settings, target: Path) -> JobStatus | None:
    for status in Jobs(settings).statuses(QUANTISING):
        arguments = status.spec.arguments
        if "node" not in arguments and not status.state.ended and arguments.get("target") == str(target):
            return status
    return None


def _quantization(settings: Settings, model: ModelSpec, options: AwqOptions, gpu: GpuFacts | None) -> JobSpec:
    job_id = new_id()
    target = awq_folder(settings, model, options)
    # Beside the result, so that one rename publishes it; hidden, so that nobody takes it for a model.
    scratch = target.parent / f".{target.name}.{job_id}"
    target.parent.mkdir(parents=True, exist_ok=True)
    if options.calibration_file:
        options = replace(options, calibration=str(options.calibration_file.absolute()))
    return JobSpec(
        id=job_id,
        kind=QUANTISING,
        title=N_("W4A16 of {model}", model=model.name),
        worker="core.models.awq.worker",
        arguments={
            "model": model.name,
            "source": str(checkpoint_folder(model.checkpoint).absolute()),
            "scratch": str(scratch),
            "target": str(target),
            "options": asdict(options),
        },
        device="cpu" if gpu is None else f"gpu{gpu.index}",
        python=options.python,
        env=_quantization_environment(options, gpu),
        scratch=(str(scratch),),
    )


def _quantization_environment(options: AwqOptions, gpu: GpuFacts | None) -> dict[str, str]:
    env = {"CUDA_VISIBLE_DEVICES": "" if gpu is None else gpu.uuid or str(gpu.index)}
    if options.source is not CalibrationSource.NAMED_SET:
        env |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    return env


def start_demos(settings: Settings) -> str:
    """Start it in a process of its own and return the job's id. Raises InputError if it goes on already."""
    return Jobs(settings).start_module(
        PREPARING_DEMOS,
        "core.models.job",
        {},
        title=N_("Demo models"),
        already_running=N_("The demo models are already being prepared."),
    )


def are_demos_wanted(settings: Settings, lanes: Iterable[LaneSpec]) -> bool:
    """Whether one of the lanes has a demo model that isn't there yet."""
    checkpoints = {lane.model.checkpoint for lane in lanes if lane.model is not None}
    text, vision = (str(settings.models_dir / name) for name in (DEMO_NAME, VISION_DEMO_NAME))
    return (text in checkpoints and not demo_models.is_text_prepared(settings)) or (
        vision in checkpoints and not demo_models.is_vision_prepared(settings)
    )


def prepare_demos(_arguments: Mapping[str, Any], report: Report) -> Mapping[str, Any]:
    """Prepare both; on a GPU, start another job that quantises the text model."""
    settings = load_settings()
    prepared = [demo_models.prepare_text(settings, report).name]
    # Started before this job ends: an engine that waits for its weights always sees somebody make them.
    quantising = prepare_demo_awq(settings) if Nvml().devices() else None
    prepared.append(demo_models.prepare_vision(settings, report).name)
    return {"models": prepared, "quantising": quantising}


def job_that_makes(settings: Settings, path: Path) -> JobStatus | None:
    """The newest job that makes the folder or file at `path`, running or ended; None if there is none.

    What a node makes lies on the node, so those jobs don't count.
    """
    for status in Jobs(settings).statuses():
        arguments = status.spec.arguments
        is_here = "node" not in arguments and arguments.get("target") == str(path)
        if status.spec.kind == QUANTISING and is_here:
            return status
        if status.spec.kind == PREPARING_DEMOS and any(
            path == folder or folder in path.parents for folder in _demo_folders(settings)
        ):
            return status
    return None


def is_being_made(settings: Settings, lane: LaneSpec) -> bool:
    """Whether a job is at work on the lane's weights."""
    path = lane.model.path(lane.weights) if lane.model else None
    job = job_that_makes(settings, Path(path)) if path else None
    return job is not None and not job.state.ended


def _demo_folders(settings: Settings) -> tuple[Path, ...]:
    """The AWQ form too: the job that prepares the demo models starts the one that makes it."""
    names = (settings.models_dir / name for name in (DEMO_NAME, VISION_DEMO_NAME))
    return (*names, awq_dir(settings, DEMO_NAME))


if __name__ == "__main__":
    sys.exit(run(prepare_demos))
