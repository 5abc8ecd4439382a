"""`models` and `quantize`: the checkpoints on disk, and how they come to be there.

A W4A16 (AWQ) form of a model is made by a background job that the command watches.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskProgressColumn, TimeElapsedColumn
from rich.table import Table

from core import units
from core.cli import context
from core.cli.terminal import error_text, progress_text, terminal
from core.cluster.jobs import quantize_on
from core.codec import encode_plain
from core.config import LaneRegistry
from core.domain.specs import ModelSpec
from core.errors import ModelError
from core.i18n import _
from core.jobs.registry import Jobs, JobState, JobStatus
from core.models import demo_models, internlm2, model_folders
from core.models.awq.options import NAMED_SETS, OWN_ANSWERS, PYTHON_DOCS, AwqOptions
from core.models.job import check_quantization, prepare_demo_awq
from core.models.job import quantize as start_quantizing
from core.models.model_folders import StageCallback
from core.settings import Settings, load_settings
from core.telemetry.nvml import Nvml

app = typer.Typer(no_args_is_help=True)
console = terminal(stderr=True)


@app.command("list", help=_("List the models in the models folder with their weights and sizes."))
def list_models(as_json: context.AsJson = False) -> None:
    models = model_folders.list_models(load_settings())
    if as_json:
        typer.echo(encode_plain([_facts(model) for model in models]))
        return
    table = Table(_("Model"), _("Weights"), _("Size"), _("Path"))
    for model in models:
        for form in model.forms:
            table.add_row(model.name, form.weights, units.gib(form.size_bytes), str(form.path))
    terminal().print(table)


def _facts(model: model_folders.StoredModel) -> dict[str, Any]:
    return {
        "name": model.name,
        "size_bytes": model.size_bytes,
        "forms": [
            {
                "weights": form.weights,
                "path": str(form.path),
                "size_bytes": form.size_bytes,
                "provenance": form.provenance,
            }
            for form in model.forms
        ],
    }


@app.command(
    "demo",
    help=_("Prepare the demo models: SmolLM2-135M-Instruct (with a GPU, also as W4A16) and the demo LLaVA."),
)
def prepare_demo(
    vision: Annotated[
        bool,
        typer.Option(help=_("Also prepare the demo vision model, a small LLaVA for drawn scenes.")),
    ] = True,
) -> None:
    settings = load_settings()
    if not demo_models.is_text_prepared(settings):
        _prepare(demo_models.prepare_text, settings)
    if vision and not demo_models.is_vision_prepared(settings):
        _prepare_vision(settings)
    if Nvml().devices():
        _quantise_demo(settings)
    console.print(_("Demo weights: {path}", path=settings.models_dir))


def _prepare(prepare: Callable[[Settings, StageCallback], ModelSpec], settings: Settings) -> None:
    with Progress(SpinnerColumn(), progress_text(), TimeElapsedColumn()) as progress:
        task = progress.add_task(_("Preparing the demo weights"))
        prepare(settings, lambda line: progress.update(task, description=_(line)))


def _prepare_vision(settings: Settings) -> None:
    """A failure is only printed, since text lanes work without the vision model."""
    try:
        _prepare(demo_models.prepare_vision, settings)
    except ModelError as exc:
        text = _("The demo vision model is not ready. {message} {hint}", message=exc.message, hint=exc.hint)
        console.print(text)


def _quantise_demo(settings: Settings) -> None:
    job_id = prepare_demo_awq(settings)
    if job_id is None:
        return
    jobs = Jobs(settings)
    with Progress(console=console) as progress:
        task = progress.add_task(_("Quantising the demo weights to W4A16"), total=1.0)
        while not (status := jobs.wait(job_id, timeout_s=0.5)).state.ended:
            progress.update(task, completed=status.record.progress or 0.0)
        progress.update(task, completed=1.0)
    if status.state is not JobState.DONE:
        error = status.record.error
        reason = error.message if error else _("the job was cancelled")
        console.print(_("The awq lane has no weights yet: {reason}", reason=reason))


@app.command(
    "internlm2",
    help=_("Convert an InternLM2 checkpoint to Llama, which every engine loads without remote code."),
)
def convert_internlm2(
    source: Annotated[Path, typer.Argument(help=_("Folder of an InternLM2 checkpoint."))],
    name: Annotated[str | None, typer.Option(help=_("Name of the result. Default: SOURCE-llama."))] = None,
) -> None:
    with Progress(SpinnerColumn(), progress_text(), TimeElapsedColumn()) as progress:
        task = progress.add_task(_("Converting"))
        model = internlm2.convert(
            load_settings(), source, name=name, report=lambda line: progress.update(task, description=_(line))
        )
    typer.echo(model.checkpoint)


_LOOK_S = 0.25
_CANCEL_S = 30.0


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
