"""`memory`: what an LMDeploy engine will take of a GPU, before it is started."""

from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from core import units
from core.cli import context
from core.codec import encode
from core.config import LaneBook
from core.errors import ConfigError, InputError
from core.models.memory_sizes import checkpoint_sizes
from core.models.sizes import read_checkpoint
from core.telemetry.kv_cache import kv_bytes_per_token
from core.telemetry.memory_plan import MemoryPrediction, MemorySettings, predict
from core.telemetry.nvml import Nvml

app = typer.Typer(help="Where the GPU memory of an LMDeploy engine goes.", no_args_is_help=True)
output = Console(highlight=False)


@app.callback()
def memory() -> None:
    """Where the GPU memory of an LMDeploy engine goes."""


@app.command("predict")
def predict_memory(
    model: Annotated[str, typer.Argument(help="A model of lanes.toml, a folder, or a downloaded hub id.")],
    ratio: Annotated[float, typer.Option(help="KV ratio (cache_max_entry_count), between 0 and 1.")],
    kv_bits: Annotated[int, typer.Option(help="Bits of the KV cache: 16, 8 or 4.")] = 16,
    awq: Annotated[bool, typer.Option("--awq", help="As if the weights were quantised (W4A16).")] = False,
    gpu_gib: Annotated[
        float | None, typer.Option(help="Free memory of the GPU in GiB; without it the GPU here.")
    ] = None,
    context_tokens: Annotated[int, typer.Option("--context", help="Tokens of a sequence.")] = 4096,
    batch: Annotated[int, typer.Option(help="Requests at once (max_batch_size).")] = 64,
    tp: Annotated[int, typer.Option(help="GPUs that the engine spans.")] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
) -> None:
    """Weights, KV cache, tokens that fit, total and headroom of a TurboMind engine."""
    _, book = context.load()
    facts = read_checkpoint(_checkpoint(book, model))
    sizes = checkpoint_sizes(facts, awq=awq)
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
        typer.echo(encode(_document(prediction, per_token)))
    else:
        output.print(_table(prediction, per_token, settings))


def _checkpoint(book: LaneBook, model: str) -> str:
    try:
        return book.model(model).checkpoint
    except ConfigError:
        return model


def _free_bytes(gpu_gib: float | None) -> int:
    if gpu_gib is not None:
        return int(gpu_gib * 2**30)
    free = [gpu.free_bytes for gpu in Nvml().devices() if gpu.free_bytes is not None]
    if not free:
        raise InputError(
            "There is no NVIDIA GPU here to predict for", hint="Name the size of one: --gpu-gib 24"
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
    table = Table("part", "size", "from")
    for part in prediction.parts:
        table.add_row(part.name, units.gib(part.size_bytes), part.source)
    table.add_section()
    table.add_row("total", units.gib(prediction.total_bytes), f"of {units.gib(prediction.free_before_bytes)}")
    headroom = prediction.headroom_bytes
    if prediction.fits:
        table.add_row("headroom", units.gib(headroom), "")
    else:
        table.add_row("[bold red]missing[/]", units.gib(-headroom), "the engine will run out of memory")
    table.add_section()
    table.add_row("KV cache for a token", f"{units.count(per_token)} bytes", f"{settings.kv_bits} bits")
    table.add_row("tokens that fit", units.count(prediction.pool.tokens), "all sequences together")
    table.add_row(
        f"sequences of {units.count(settings.session_len)} tokens",
        units.count(prediction.sequences),
        "at once",
    )
    return table
