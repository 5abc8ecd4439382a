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
from core.models.sizes import CheckpointFacts, read_checkpoint
from core.telemetry.kv_cache import KvShape, kv_bytes_per_token, refuse_unless_plain_attention
from core.telemetry.memory_plan import (
    MemoryPrediction,
    MemorySettings,
    ModelSizes,
    predict,
    weight_bytes_16_bit,
    weight_bytes_awq,
)
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
    refuse_unless_plain_attention(
        facts.architecture,
        is_mla=facts.is_mla,
        is_hybrid=facts.is_hybrid,
        sliding_window=facts.sliding_window,
    )
    sizes = _sizes(facts, awq=awq)
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


def _sizes(facts: CheckpointFacts, *, awq: bool) -> ModelSizes:
    return ModelSizes(
        weight_bytes=_weight_bytes(facts, awq=awq),
        kv=KvShape(layers=facts.layers, kv_heads=facts.kv_heads, head_dim=facts.head_dim),
        heads=facts.heads,
        hidden_size=facts.hidden_size,
        intermediate_size=facts.intermediate_size,
        vocab_size=facts.vocab_size,
    )


def _weight_bytes(facts: CheckpointFacts, *, awq: bool) -> int:
    """Weights as TurboMind loads them: in 16 bits, or quantised as they are."""
    if facts.quantization is not None or facts.parameters is None:
        return facts.weight_bytes
    if awq:
        return weight_bytes_awq(facts.parameters, facts.embedding_parameters)
    return weight_bytes_16_bit(facts.parameters)


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
