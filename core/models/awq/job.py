"""W4A16 (AWQ) quantisation of a checkpoint as a background job."""

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from core.codec import decode
from core.config.lanes import awq_dir, demo_model
from core.domain.specs import ModelSpec
from core.domain.turns import new_id
from core.errors import InputError
from core.i18n import N_
from core.jobs.records import JobSpec, JobStatus
from core.jobs.registry import Jobs
from core.models.awq.check import Concern, check_awq, choose_gpu
from core.models.awq.options import OWN_ANSWERS, AwqOptions, CalibrationSource, Rounding
from core.models.checkpoint import checkpoint_folder
from core.models.provenance import PROVENANCE_FILE, Provenance
from core.settings import Settings
from core.telemetry.gpus import GpuFacts
from core.telemetry.nvml import Nvml

JOB_KIND = "quantise"
DEMO_OPTIONS = AwqOptions(
    calibration=OWN_ANSWERS, samples=64, seqlen=512, search_scale=True, rounding=Rounding.COMPENSATED
)


def awq_folder(settings: Settings, model: ModelSpec, options: AwqOptions) -> Path:
    """Return where the result goes: `options.out`, else the model's own AWQ folder."""
    chosen = options.out or model.awq
    return Path(chosen).expanduser().absolute() if chosen else awq_dir(settings, model.name)


def check(
    settings: Settings, model: ModelSpec, options: AwqOptions, *, gpus: Sequence[GpuFacts] | None = None
) -> tuple[Concern, ...]:
    """Concerns before the quantisation; a blocking one keeps `quantize` from starting.

    Takes ten seconds the first time, since lmdeploy is asked in a child process. `gpus` default to the
    machine's.
    """
    gpus = Nvml().devices() if gpus is None else gpus
    concerns = check_awq(model, options, awq_folder(settings, model, options), gpus)
    if _running(settings, awq_folder(settings, model, options)):
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
    for concern in check(settings, model, options, gpus=gpus):
        if concern.blocking:
            raise concern.problem
    return Jobs(settings).start(_job(settings, model, options, choose_gpu(options, gpus)))


def prepare_demo_awq(settings: Settings) -> str | None:
    """Start quantising the prepared demo model, on a GPU, unless its W4A16 form is there.

    Returns the id of the job that makes it, perhaps one that runs already; None if there is nothing to do.
    Raises the first blocking concern.
    """
    model = demo_model(settings)
    target = awq_folder(settings, model, DEMO_OPTIONS)
    if target.exists():
        return None
    if running := _running(settings, target):
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


def _running(settings: Settings, target: Path) -> JobStatus | None:
    for status in Jobs(settings).statuses(JOB_KIND):
        arguments = status.spec.arguments
        if "node" not in arguments and not status.state.ended and arguments.get("target") == str(target):
            return status
    return None


def _job(settings: Settings, model: ModelSpec, options: AwqOptions, gpu: GpuFacts | None) -> JobSpec:
    job_id = new_id()
    target = awq_folder(settings, model, options)
    # Beside the result, so that one rename publishes it; hidden, so that nobody takes it for a model.
    scratch = target.parent / f".{target.name}.{job_id}"
    target.parent.mkdir(parents=True, exist_ok=True)
    if options.calibration_file:
        options = replace(options, calibration=str(options.calibration_file.absolute()))
    return JobSpec(
        id=job_id,
        kind=JOB_KIND,
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
        env=_environment(options, gpu),
        scratch=(str(scratch),),
    )


def _environment(options: AwqOptions, gpu: GpuFacts | None) -> dict[str, str]:
    env = {"CUDA_VISIBLE_DEVICES": "" if gpu is None else gpu.uuid or str(gpu.index)}
    if options.source is not CalibrationSource.NAMED_SET:
        env |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    return env
