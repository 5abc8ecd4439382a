"""`bandwidth`: a GPU's memory bandwidth, measured by a copy; load tests show speeds as a share of it."""

from typing import Annotated

import typer

from core.bench.bandwidth import Bandwidth, measure_bandwidth
from core.bench.roofline import bandwidth_of
from core.cli import context
from core.cli.terminal import terminal
from core.codec import encode_plain
from core.i18n import _
from core.settings import load_settings

output = terminal()
progress = terminal(stderr=True)


def bandwidth(
    gpu: Annotated[int, typer.Option(help=_("Index of the GPU, as `nvidia-smi` counts."), min=0)] = 0,
    as_json: context.AsJson = False,
) -> None:
    """Measure how fast a GPU copies within its memory, and remember it."""
    with progress.status(_("Copying within the GPU's memory")):
        measured = measure_bandwidth(load_settings(), gpu_index=gpu)
    if as_json:
        typer.echo(encode_plain(measured))
    else:
        output.print("\n".join(_lines(measured)))


def _lines(measured: Bandwidth) -> list[str]:
    speeds = (measured.bytes_per_s, measured.low_bytes_per_s, measured.high_bytes_per_s)
    middle, low, high = (f"{speed / 1e9:,.0f}" for speed in speeds)
    lines = [
        _(
            "{gpu}: {speed} GB/s, median of {n} ({low} to {high})",
            gpu=measured.gpu_name,
            speed=middle,
            n=measured.n,
            low=low,
            high=high,
        )
    ]
    if sheet := bandwidth_of(measured.gpu_name):
        lines.append(_("Data sheet: {speed} GB/s", speed=f"{sheet / 1e9:,.0f}"))
    return lines
