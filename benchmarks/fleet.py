"""A fleet of nodes without Ray: what the cluster's process and the dashboard cost, and how long pages take.

    python -m benchmarks.fleet [--nodes 64] [--rounds 3] [--lost N] [--json FILE]

Each node is a scripted agent with 8 GPUs and one engine (tests/unit/cluster/fake_fabric.py), in the place of
Ray in the cluster's real process, which asks each of them every 1.5 s; so its figure contains the agents'
work too. The dashboard runs as a visitor has it. Its processor time is read for 12 s without a visitor and
for 12 s with the Engines page open, which draws itself again every second; then Engines and Overview are
opened in Chromium as in `benchmarks.page_speed`, the first time and again.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
from playwright.sync_api import Page, expect, sync_playwright

from benchmarks.meter import this_machine, told
from benchmarks.page_speed import CHROMIUM_ARGS, LOOK_MS, summary, visit
from core.cluster.link import find_process, needed
from core.cluster.process import main as run_cluster_process
from core.cluster.protocol import Hello
from core.codec import encode
from core.config import load_lanes
from core.domain.specs import ClusterSpec
from core.engines.resolve import nodes_file, read_snapshot
from core.settings import PROJECT_ROOT, Settings
from tests.e2e.e2e_dashboard import settle, started_dashboard
from tests.unit.cluster.fake_fabric import FakeFabric, ScriptedAgent, gpu

ADDRESS = "fleet:6379"
GPUS = 8
WATCHED_S = 12.0
READY_S = 60.0
LOST_AFTER_S = 10.0
PAGES = ("Engines", "Overview")
LANE = '[lanes.on-{node}]\nengine = "turbomind"\nmodel = "m"\nnode = "{node}"\n\n'


def name_of(place: int) -> str:
    return f"node{place:02}"


def lanes_text(nodes: int) -> str:
    text = f'[cluster]\naddress = "{ADDRESS}"\n\n[models.m]\ncheckpoint = "/models/m"\n\n'
    return text + "".join(LANE.format(node=name_of(place)) for place in range(nodes))


def settings_of(home: Path) -> Settings:
    return Settings(home=home, lanes_file=home / "lanes.toml", database_url=f"sqlite:///{home / 'lmdyno.db'}")


def fabric_of(hello: Hello, lost: int) -> FakeFabric:
    """A node with a healthy engine for each lane; the last `lost` of them fall silent after a while."""
    lanes = load_lanes(settings_of(Path(hello.home)), gpu=True).lanes
    gpus = tuple(gpu(index) for index in range(GPUS))
    agents = {str(lane.node): ScriptedAgent(str(lane.node), gpus=gpus) for lane in lanes}
    for lane in lanes:
        agents[str(lane.node)].put(lane)
    fabric = FakeFabric(dict(agents))
    timer = threading.Timer(LOST_AFTER_S, lambda: fabric.silent.update(list(agents)[len(agents) - lost :]))
    timer.daemon = True
    timer.start()
    return fabric


@contextmanager
def fleet(home: Path, nodes: int, lost: int = 0) -> Iterator[psutil.Process]:
    """The cluster's process over so many nodes, once all have answered."""
    home.mkdir(parents=True, exist_ok=True)
    settings = settings_of(home)
    settings.lanes_file.write_text(lanes_text(nodes), "utf-8")
    hello = Hello(home=str(home), cluster=ClusterSpec(address=ADDRESS), end_engines_after="never")
    with needed(settings):
        process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.fleet", "--process", "--lost", str(lost)],
            cwd=PROJECT_ROOT,
            stdin=subprocess.PIPE,
        )
        try:
            assert process.stdin is not None
            process.stdin.write(encode(hello) + b"\n")
            process.stdin.close()
            deadline = time.monotonic() + READY_S
            while not _is_ready(settings, nodes):
                if process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError("the fleet didn't come up")
                time.sleep(0.2)
            yield psutil.Process(process.pid)
        finally:
            process.terminate()
            process.wait()


def _is_ready(settings: Settings, nodes: int) -> bool:
    snapshot = read_snapshot(settings)
    return (
        find_process(settings) is not None
        and snapshot is not None
        and sum(node.alive for node in snapshot.nodes) == nodes
    )


def cores_used(processes: dict[str, psutil.Process]) -> dict[str, float]:
    """Processor time by wall time of each, for `WATCHED_S`."""

    def seconds(process: psutil.Process) -> float:
        times = process.cpu_times()
        return float(times.user + times.system)

    before, began = {name: seconds(each) for name, each in processes.items()}, time.monotonic()
    time.sleep(WATCHED_S)
    took_s = time.monotonic() - began
    return {name: round((seconds(each) - before[name]) / took_s, 4) for name, each in processes.items()}


def measure(page: Page, url: str, rounds: int, processes: dict[str, psutil.Process]) -> dict[str, Any]:
    nobody = cores_used(processes)
    page.set_default_timeout(LOOK_MS)
    expect.set_options(timeout=LOOK_MS)
    page.goto(f"{url}/memory")
    settle(page)
    first = {name: [visit(page, name)] for name in PAGES}
    later: dict[str, list[tuple[float, float, float]]] = {name: [] for name in PAGES}
    for _ in range(rounds):
        for name in PAGES:
            later[name].append(visit(page, name))
    visit(page, "Engines")
    shown = cores_used(processes)
    return {
        "cores_without_a_visitor": nobody,
        "cores_with_the_engines_page": shown,
        "first": summary(first),
        "later": summary(later),
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--nodes", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--lost", type=int, default=0, help="nodes that fall silent")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--process", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.process:
        return run_cluster_process(lambda hello: fabric_of(hello, options.lost))
    machine = this_machine()
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        home = Path(folder)
        path = shutil.which("chromium") or shutil.which("chromium-browser")
        with (
            fleet(home, options.nodes, options.lost) as cluster,
            started_dashboard(home, lanes_text(options.nodes)) as dashboard,
        ):
            processes = {
                "cluster process": cluster,
                "dashboard": psutil.Process(dashboard.process.pid),
            }
            chromium = playwright.chromium.launch(executable_path=path, args=CHROMIUM_ARGS)
            page = chromium.new_page(viewport={"width": 1400, "height": 900})
            figures = measure(page, dashboard.url, options.rounds, processes)
            figures["nodes_json_bytes"] = nodes_file(settings_of(home)).stat().st_size
            chromium.close()
    print(json.dumps(figures, indent=1))
    print(told(machine))
    if options.json:
        document = {
            "command": " ".join(["python -m benchmarks.fleet", *sys.argv[1:]]),
            "machine": machine,
            "nodes": options.nodes,
            "figures": figures,
        }
        options.json.write_text(json.dumps(document, separators=(",", ":")) + "\n", "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
