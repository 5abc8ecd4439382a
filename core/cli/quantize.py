"""`quantize`: a W4A16 (AWQ) form of a model, made by a background job that this command watches."""

import time
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, Progress, TaskProgressColumn

from core import units
from core.cli import context
from core.cli.output import error_text
from core.cli.terminal import progress_text, terminal
from core.cluster.jobs import quantize_on
from core.codec import encode_plain
from core.config import LaneRegistry
from core.domain.specs import ModelSpec
from core.i18n import _
from core.jobs.records import JobState, JobStatus
from core.jobs.registry import Jobs
from core.models.awq.options import NAMED_SETS, OWN_ANSWERS, PYTHON_DOCS, AwqOptions
from core.models.job import check_quantization
from core.models.job import quantize as start_quantizing
from core.settings import Settings

_LOOK_S = 0.25
_CANCEL_S = 30.0

console = terminal(stderr=True)
DEFAULTS = AwqOptions()


def quantize(
    model: Annotated[str, typer.Argument(help=_("Model from lanes.toml, or the folder of a checkpoint."))],
    calibration: Annotated[
        str,
        typer.Option(
            help=_(
                "{own_answers} (the model answers built-in prompts), {python_docs} (comes with Python), "
                "none, a "
                "text or JSONL file, or a dataset from the hub: {datasets}.",
                own_answers=OWN_ANSWERS,
                python_docs=PYTHON_DOCS,
                datasets=", ".join(NAMED_SETS),
            )
        ),
    ] = DEFAULTS.calibration,
    samples: Annotated[int, typer.Option(help=_("Number of calibration samples."))] = DEFAULTS.samples,
    seqlen: Annotated[int, typer.Option(help=_("Tokens per sample."))] = DEFAULTS.seqlen,
    search_scale: Annotated[
        bool,
        typer.Option(
            "--search-scale",
            help=_("Try 20 scales per layer. Gives better results but takes many times longer."),
        ),
    ] = False,
    batch_size: Annotated[int, typer.Option(help=_("Samples per batch."))] = DEFAULTS.batch_size,
    rounding: Annotated[
        str,
        typer.Option(
            help=_(
                "nearest (LMDeploy's), or compensated: chooses the values so that each layer's output "
                "changes least. Loses less quality. For models with Llama's structure."
            )
        ),
    ] = DEFAULTS.rounding,
    dtype: Annotated[str, typer.Option(help=_("float16 or bfloat16."))] = DEFAULTS.dtype,
    device: Annotated[str, typer.Option(help=_("cuda, cuda:N, or cpu."))] = DEFAULTS.device,
    out: Annotated[
        Path | None, typer.Option(help=_("Output folder. Default: NAME-awq in the models folder."))
    ] = None,
    python: Annotated[
        str,
        typer.Option(help=_("Python interpreter with lmdeploy."), show_default=_("this interpreter")),
    ] = DEFAULTS.python,
    node: context.NodeName = None,
    as_json: context.AsJson = False,
) -> None:
    """Quantise a model to W4A16 in a background job, and watch it."""
    settings, registry = context.load()
    options = AwqOptions(
        calibration=calibration,
        samples=samples,
        seqlen=seqlen,
        search_scale=search_scale,
        batch_size=batch_size,
        rounding=rounding,
        dtype=dtype,
        device=device,
        out=None if out is None else str(out),
        python=python,
    )
    spec = _model(registry, model)
    jobs = Jobs(settings)
    status = _watch(jobs, _start(settings, node, spec, options))
    _tell(jobs, status, as_json=as_json)
    if status.state is not JobState.DONE:
        raise typer.Exit(1)


def _start(settings: Settings, node: str | None, spec: ModelSpec, options: AwqOptions) -> str:
    """Check what can be checked here, and start the job."""
    if node is not None:
        return quantize_on(settings, node, spec, options)
    with console.status(_("Checking requirements")):
        findings = check_quantization(settings, spec, options)
    for finding in findings:
        if not finding.blocking:
            console.print(error_text(finding.problem, "yellow"))
    return start_quantizing(settings, spec, options)


def _model(registry: LaneRegistry, name: str) -> ModelSpec:
    """The model of that name in the lanes file, else the checkpoint in that folder."""
    folder = Path(name).expanduser().absolute()
    if any(model.name == name for model in registry.models) or not folder.is_dir():
        return registry.model(name)
    return ModelSpec(name=folder.name, checkpoint=str(folder))


def _watch(jobs: Jobs, job_id: str) -> JobStatus:
    """Show the job's progress until it ends; Ctrl-C cancels it."""
    columns = (
        progress_text(),
        BarColumn(),
        TaskProgressColumn(),
        progress_text("{task.fields[time]}"),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("", total=1.0, time="")
        try:
            while not (status := jobs.status(job_id)).state.ended:
                record = status.record
                bar.update(
                    task,
                    completed=record.progress or 0,
                    description=_(record.stage),
                    time=_times(status),
                )
                time.sleep(_LOOK_S)
        except KeyboardInterrupt:
            bar.update(task, description=_("Cancelling"))
            jobs.cancel(job_id)
            status = jobs.wait(job_id, _CANCEL_S)
    return status


def _times(status: JobStatus) -> str:
    elapsed = units.duration(status.elapsed_s)
    if status.expected_s is None:
        return elapsed
    return f"{elapsed} · {_('about {time} left', time=units.duration(status.expected_s))}"


def _tell(jobs: Jobs, status: JobStatus, *, as_json: bool) -> None:
    record = status.record
    if as_json:
        facts = {"job": status.id, "state": status.state, "elapsed_s": status.elapsed_s}
        typer.echo(encode_plain({**facts, "result": record.result, "error": record.error}))
    elif record.result:
        before, after = (units.gib(record.result[key]) for key in ("source_bytes", "result_bytes"))
        sizes = _(
            "{source} → {result} in {time}",
            source=before,
            result=after,
            time=units.duration(status.elapsed_s),
        )
        typer.echo(f"{record.result['path']}: {sizes}")
    elif record.error:
        console.print(error_text(record.error), highlight=False)
        console.print(jobs.log_tail(status.id, 15), style="dim")
    else:
        console.print(_("Cancelled. Nothing was kept."))
