"""Lanes with replicas whose servers are `fake_engine.py`: real leaders, and a proxy of a few lines."""

import sys
from pathlib import Path

from core.domain.specs import Dialect, EngineKind
from core.engines.launch import serve_replicas
from core.engines.launch.table import Command, LaunchRow
from core.engines.supervisor import log_path
from core.telemetry.samples import GpuFacts

HERE = Path(__file__).parent
KEY = "the-key"
GIB = 2**30


class TwoGpus:
    def devices(self):
        return [
            GpuFacts(index=index, name="GPU", total_bytes=80 * GIB, free_bytes=79 * GIB) for index in range(2)
        ]


def row(*options: str, proxy: Path | None = HERE / "fake_proxy.py") -> LaunchRow:
    """`options` are the servers'; without a `proxy` it is LMDeploy's."""

    def command(lane, place, port):
        argv = [sys.executable, serve_replicas.__file__, "--port", str(port), "--model", lane.name]
        argv += ["--name", log_path(Path(), lane.name).stem]
        argv += [f"--devices={share.visible_devices}" for share in place.shares(lane.settings.replicas)]
        argv += ["--engine", str(HERE / "fake_replica.py")]
        argv += ["--proxy", str(proxy)] if proxy else []
        argv += ["--", "--model", lane.name, *options]
        return Command(tuple(argv), {"LMDYNO_ENGINE_KEY": KEY}, served_model=lane.name, api_key=KEY)

    return LaunchRow(
        packages=("psutil",),
        dialect=Dialect.LMDEPLOY,
        command=command,
        needs_gpu=True,
        overhead_bytes=GIB,
    )


def rows(*options: str, **more):
    return {EngineKind.TURBOMIND: row(*options, **more)}
