"""Two made-up GPUs and scripted servers, with which `several_gpus.py --tiny` runs anywhere."""

import json
import sys
from collections.abc import Sequence

from gpu_steps import ROOT

from core.domain.specs import Dialect, EngineKind, LaneSpec
from core.engines.launch.table import Command, LaunchRow
from core.engines.placement import Place
from core.telemetry.samples import GpuFacts

GIB = 2**30


class TwoGpus:
    """Two empty GPUs of 80 GiB."""

    def devices(self) -> Sequence[GpuFacts]:
        return [
            GpuFacts(
                index=index,
                name="made up",
                total_bytes=80 * GIB,
                free_bytes=79 * GIB,
                used_bytes=GIB,
                board=index,
            )
            for index in range(2)
        ]


def scripted_rows() -> dict[EngineKind, LaunchRow]:
    row = LaunchRow(
        packages=("aiohttp",),
        dialect=Dialect.LMDEPLOY,
        command=_command,
        needs_gpu=True,
        overhead_bytes=GIB,
    )
    return {EngineKind.TURBOMIND: row, EngineKind.AWQ: row}


def _command(lane: LaneSpec, place: Place, port: int) -> Command:
    scenarios = {lane.name: {"dialect": "lmdeploy", "chunks": 500, "interval_s": 0.005}}
    argv = (sys.executable, "-m", "tests.scripted_server", "--port", str(port))
    environment = {"PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": place.visible_devices}
    return Command((*argv, "--scenarios", json.dumps(scenarios)), environment, served_model=lane.name)
