"""`memory`: what an LMDeploy engine will take of a GPU, and how true that is."""

import time
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from core import units
from core.bench.memory_sweep import DEFAULT_RATIOS, SweepPlan, SweepRun, grid, load, start_sweep
from core.cli import context
from core.cli.terminal import error_text, terminal
from core.codec import encode_plain
from core.config import LaneRegistry
from core.errors import ConfigError, InputError
from core.i18n import N_, _
from core.jobs.registry import Jobs, JobState, JobStatus
from core.memory.model_sizes import checkpoint_sizes, facts_to_predict
from core.memory.prediction import MemoryPrediction, MemorySettings, kv_bytes_per_token, predict
from core.telemetry.nvml import Nvml

app = typer.Typer(no_args_is_help=True)
output = terminal()

_POLL_S = 0.2


@app.command(
    "predict",
    help=_("Predict weights, KV cache, tokens that fit, total, and headroom of a TurboMind engine."),
)
def predict_memory(
    model: Annotated[
        str,
        typer.Argument(
            help=_(
                "Model from lanes.toml, a folder, a downloaded hub ID, or a config.json; config.json alone "
                "is enough."
            )
        ),
    ],
    ratio: Annotated[float, typer.Option(help=_("KV cache ratio (cache_max_entry_count), between 0 and 1."))],
    kv_bits: Annotated[int, typer.Option(help=_("Bits of the KV cache: 16, 8, or 4."))] = 16,
    awq: Annotated[bool, typer.Option("--awq", help=_("Predict for quantised weights (W4A16)."))] = False,
    gpu_gib: Annotated[
        float | None,
        typer.Option(help=_("Free memory of the GPU in GiB. Default: the GPU of this machine.")),
    ] = None,
    context_tokens: Annotated[int, typer.Option("--context", help=_("Tokens per sequence."))] = 4096,
    batch: Annotated[int, typer.Option(help=_("Concurrent requests (max_batch_size)."))] = 64,
    tp: Annotated[int, typer.Option(help=_("Number of GPUs that the engine uses."))] = 1,
    as_json: context.AsJson = False,
) -> None:
    registry = context.load()[1]
    sizes = checkpoint_sizes(facts_to_predict(_checkpoint(registry, model)), awq=awq)
    settings = MemorySettings(
        cache_max_entry_count=ratio,
        kv_bits=kv_bits,
        max_batch_size=batch,
        session_len=context_tokens,
        tp=tp,
    )
    prediction = predict(sizes, settings, _free_bytes(gpu_gib))
    per_token = kv_bytes_per_token(sizes.kv, kv_bits=kv_bits, tp=tp)
    if as_json:
        counted = {"weights_counted_from_config": sizes.counted}
        typer.echo(encode_plain(_document(prediction, per_token) | counted))
    else:
        output.print(_table(prediction, per_token, settings))


@app.command(
    "sweep",
    help=_(
        "Start an engine with several KV cache settings, and compare the prediction with the measurement.\n\n"
        "Runs as a job that continues if this command is killed. Ctrl-C cancels it."
    ),
)
def sweep_memory(
    model: Annotated[str, typer.Argument(help=_("Model from lanes.toml."))],
    ratio: Annotated[
        list[float] | None,
        typer.Option(help=_("KV cache ratio. Repeat for more. Default: 0.8, 0.6, 0.4, 0.2, 0.05.")),
    ] = None,
    kv_bits: Annotated[
        list[int] | None, typer.Option(help=_("Bits of the KV cache: 16, 8, or 4. Repeat for more."))
    ] = None,
    awq: Annotated[bool, typer.Option("--awq", help=_("Use the model's W4A16 weights."))] = False,
    both: Annotated[
        bool, typer.Option("--both", help=_("Use the 16-bit weights, then the W4A16 weights."))
    ] = False,
    gpu: Annotated[int, typer.Option(help=_("Index of the GPU."))] = 0,
    node: context.NodeName = None,
    as_json: context.AsJson = False,
) -> None:
    settings, registry = context.load()
    forms = (False, True) if both else (awq,)
    points = grid(ratio or DEFAULT_RATIOS, kv_bits or (16,), forms)
    plan = SweepPlan(model=registry.model(model), points=points, gpu=gpu)
    status = _follow(Jobs(settings), start_sweep(settings, plan, node=node))
    run = load(settings, plan.id)
    if as_json:
        typer.echo(encode_plain({"job": status.record, "run": run, "errors": _errors(run) if run else []}))
    elif run:
        output.print(_sweep_table(run))
    if status.record.error and not as_json:
        output.print(error_text(status.record.error))
    if status.state is not JobState.DONE or not run or any(point.error for point in run.points):
        raise typer.Exit(1)


def _follow(jobs: Jobs, job_id: str) -> JobStatus:
    """Wait for the job's end; Ctrl-C cancels it and goes on waiting for that."""
    with terminal(stderr=True).status(_("Waiting")) as spinner:
        while not (status := jobs.status(job_id)).state.ended:
            spinner.update(_(status.record.stage) or _("Waiting"))
            try:
                time.sleep(_POLL_S)
            except KeyboardInterrupt:
                jobs.cancel(job_id)
    return status


def _errors(run: SweepRun) -> list[dict[str, object]]:
    return [
        {
            "label": result.point.label,
            "predicted_bytes": result.predicted_bytes,
            "kv_error_ratio": result.kv_error_ratio,
            "tokens_error_ratio": result.tokens_error_ratio,
            "total_error_ratio": result.total_error_ratio,
        }
        for result in run.points
    ]


def _sweep_table(run: SweepRun) -> Table:
    title = _("{model} on {gpu}", model=run.plan.model.name, gpu=run.gpu_name)
    error = _("Error")
    table = Table(
        _("Point"),
        _("KV cache (predicted)"),
        _("KV cache (log)"),
        error,
        _("Tokens"),
        error,
        _("Total (predicted)"),
        _("Memory (NVML)"),
        error,
        title=title,
    )
    for result in run.points:
        if result.error:
            table.add_row(result.point.label, _(result.error.message))
            continue
        table.add_row(
            result.point.label,
            units.gib(result.predicted_kv_bytes),
            units.gib(result.log_kv_bytes),
            units.percent(result.kv_error_ratio),
            units.count(result.log_kv_tokens),
            units.percent(result.tokens_error_ratio),
            units.gib(result.predicted_bytes),
            units.gib(result.measured_bytes),
            units.percent(result.total_error_ratio),
        )
    return table


def _checkpoint(registry: LaneRegistry, model: str) -> str:
    try:
        return registry.model(model).checkpoint
    except ConfigError:
        return model


def _free_bytes(gpu_gib: float | None) -> int:
    if gpu_gib is not None:
        return int(gpu_gib * 2**30)
    free = [gpu.free_bytes for gpu in Nvml().devices() if gpu.free_bytes is not None]
    if not free:
        raise InputError(
            N_("This machine has no NVIDIA GPU to predict for."),
            hint=N_("Enter the size of a GPU: --gpu-gib 24"),
        )
    return max(free)


def _document(prediction: MemoryPrediction, per_token: int) -> dict[str, object]:
    return {
        "parts": prediction.parts,
        "total_bytes": prediction.total_bytes,
        "free_before_bytes": prediction.free_before_bytes,
        "headroom_bytes": prediction.headroom_bytes,
        "fits": prediction.fits,
        "kv_bytes_per_token": per_token,
        "kv_block_bytes": prediction.pool.block_bytes,
        "kv_blocks": prediction.pool.blocks,
        "kv_tokens": prediction.pool.tokens,
        "sequences": prediction.sequences,
    }


def _table(prediction: MemoryPrediction, per_token: int, settings: MemorySettings) -> Table:
    table = Table(_("Part"), _("Size"), _("Source"))
    for part in prediction.parts:
        table.add_row(_(part.name), units.gib(part.size_bytes), _(part.source))
    table.add_section()
    free = _("{size} were free", size=units.gib(prediction.free_before_bytes))
    table.add_row(_("total"), units.gib(prediction.total_bytes), free)
    headroom = prediction.headroom_bytes
    if prediction.fits:
        table.add_row(_("headroom"), units.gib(headroom), "")
    else:
        table.add_row(
            Text(_("missing"), "bold red"), units.gib(-headroom), _("the engine will run out of memory")
        )
    table.add_section()
    table.add_row(
        _("KV cache per token"),
        _("{n} bytes", n=units.count(per_token)),
        _("{bits}-bit", bits=settings.kv_bits),
    )
    table.add_row(_("tokens that fit"), units.count(prediction.pool.tokens), _("in all sequences together"))
    table.add_row(
        _("Sequences of {n} tokens", n=units.count(settings.session_len)),
        units.count(prediction.sequences),
        _("concurrent"),
    )
    return table
