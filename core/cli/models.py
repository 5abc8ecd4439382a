"""`models`: the checkpoints on disk, and how they come to be there."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import Progress, SpinnerColumn, TimeElapsedColumn
from rich.table import Table

from core import units
from core.cli import context
from core.cli.terminal import progress_text, terminal
from core.codec import encode_plain
from core.domain.specs import ModelSpec
from core.errors import ModelError
from core.i18n import _
from core.jobs.records import JobState
from core.jobs.registry import Jobs
from core.models import demo_models, internlm2, model_folders
from core.models.job import prepare_demo_awq
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
