"""Load tests whose requests are sent from the nodes of a real Ray cluster, as the command line runs them."""

import json
import os
import signal
import subprocess
import sys

import pytest

from core.cluster.link import find_process
from core.settings import PROJECT_ROOT
from tests.engines.fake_python import fake_python
from tests.engines.ray_cluster import ADDRESSES, RayCluster, environment
from tests.scripted_server import running
from tests.unit.engines.engine_stand_ins import FAKE_ENGINE, gone, model_in, settings_in, wait_for

LIMIT_S = 150
LANES = """
[cluster]
address = "{address}"

[models.tiny]
checkpoint = "{checkpoint}"
"""
LANE = """
[lanes.on-{node}]
engine = "transformers"
model = "tiny"
device = "cpu"
python = "{python}"
node = "{node}"
"""


@pytest.fixture(scope="module")
def cluster():
    cluster = RayCluster()
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.close()


@pytest.fixture(scope="module")
def bench(cluster, tmp_path_factory):
    """Runs `lmdyno bench`; returns its document."""
    home = tmp_path_factory.mktemp("home")
    settings = settings_in(home)
    python = fake_python(home / "python", FAKE_ENGINE, "--chunks", "5", "--chunk-s", "0.01")
    checkpoint = model_in(home).checkpoint
    text = LANES.format(address=cluster.address, checkpoint=checkpoint)
    text += "".join(LANE.format(node=node, python=python) for node in ADDRESSES)
    (home / "lanes.toml").write_text(text, "utf-8")
    here = {"LMDYNO_HOME": str(home), "LMDYNO_LANES": str(home / "lanes.toml")}

    def run(*words):
        file = home / "run.json"
        done = subprocess.run(
            [sys.executable, "-m", "core", "bench", *words, "--raw", "--json", str(file)],
            cwd=PROJECT_ROOT,
            env={**environment(cluster.folder), **here},
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return json.loads(file.read_bytes())

    yield run
    if whereabouts := find_process(settings):
        os.kill(whereabouts.process.pid, signal.SIGTERM)
        wait_for(lambda: gone(whereabouts.process.pid))


def measured(document):
    return [request for request in document["raw"]["requests"] if not request["warmup"]]


def test_an_open_loop_from_all_nodes_is_one_run_on_one_clock(bench):
    answer = json.dumps({"chunks": 5, "first_chunk_s": 0.05, "interval_s": 0.01})
    with running() as server:
        document = bench(
            *("--endpoint", server.url, "--model", answer, "--prompts", "examples", "--natural"),
            *("--send-from", "nodes", "--rate", "20", "--requests", "30", "--warmup", "3"),
        )
        seen = [request for request in server.seen if request.body]
    assert len(seen) == 33
    requests = sorted(measured(document), key=lambda request: request["planned_ns"])
    assert len(requests) == len({request["number"] for request in requests}) == 30
    start_ns = document["raw"]["passes"][0]["start_ns"]
    planned_s = [(request["planned_ns"] - start_ns) * 1e-9 for request in requests]
    assert planned_s == pytest.approx([number / 20 for number in range(30)], abs=1e-6)
    end_ns = document["raw"]["passes"][0]["end_ns"]
    assert all(start_ns <= request["timing"]["sent_ns"] < end_ns for request in requests)
    (lane,) = document["environment"]["lanes"]
    assert lane["place"] == {"node": None, "measured_on": None, "over_network": True}
    notes = " ".join(document["points"][0]["notes"])
    assert all(f"sent from node {name}" in notes for name in ADDRESSES)
    assert document["plan"]["send_from"] == "nodes"


def test_load_processes_run_beside_each_engine(bench):
    document = bench(
        *("--lane", "on-alpha", "--lane", "on-beta", "--prompts", "examples", "--natural"),
        *("--send-from", "engine", "--concurrency", "4", "--requests", "12", "--workers", "2"),
    )
    requests = document["raw"]["requests"]
    assert len(measured(document)) == 24
    assert len({request["number"] for request in requests}) == len(requests)
    for lane, point, node in zip(
        document["environment"]["lanes"], document["points"], ("alpha", "beta"), strict=True
    ):
        assert lane["place"] == {"node": node, "measured_on": node, "over_network": False}
        assert any(note.startswith(f"sent from node {node}") for note in point["notes"])
