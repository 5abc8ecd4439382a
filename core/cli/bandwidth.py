"""`bandwidth`: a GPU's memory bandwidth, measured by a copy; load tests show speeds as a share of it."""

from typing import Annotated

import typer
from rich.console import Console

from core.bench.roofline.bandwidth import Bandwidth, measure_bandwidth
from core.bench.roofline.roofline import bandwidth_of
from core.codec import encode_plain
from core.settings import load_settings

output = Console(highlight=False)
progress = Console(stderr=True)


def bandwidth(
    gpu: Annotated[int, typer.Option(help="Which GPU, as `nvidia-smi` counts.", min=0)] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
) -> None:
    """Measure how fast a GPU copies within its memory (reading and writing counted), and remember it.

    Decode speeds are then shown as a share of what this card gives instead of what its data sheet says.
    """
    with progress.status("Copying within the GPU's memory"):
        found = measure_bandwidth(load_settings(), gpu_index=gpu)
    if as_json:
        typer.echo(encode_plain(found))
    else:
        output.print("\n".join(_lines(found)), markup=False)


def _lines(found: Bandwidth) -> list[str]:
    speeds = (found.bytes_per_s, found.low_bytes_per_s, found.high_bytes_per_s)
    middle, low, high = (f"{speed / 1e9:,.0f}" for speed in speeds)
    lines = [f"{found.gpu_name}: {middle} GB/s, median of {found.n} ({low} to {high})"]
    if sheet := bandwidth_of(found.gpu_name):
        lines.append(f"Its data sheet says {sheet / 1e9:,.0f} GB/s")
    return lines
