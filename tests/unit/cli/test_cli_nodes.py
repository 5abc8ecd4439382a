import json
import sys

import pytest

from core import __main__ as program
from core.cluster.link import ClusterLink
from core.codec import encode
from core.engines.resolve import nodes_file
from core.files import write_atomically
from core.settings import load_settings
from tests.unit.engines.node_samples import a_lost_node, a_node, a_snapshot

LANES = '[models.m]\ncheckpoint = "/m"\n[lanes.hf]\nengine = "transformers"\nmodel = "m"\n'


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Runs `lmdyno nodes` over a home; returns its exit code and what it printed."""
    monkeypatch.setenv("LMDYNO_HOME", str(tmp_path))
    monkeypatch.setattr(ClusterLink, "await_reports", lambda link: None)
    monkeypatch.setenv("LMDYNO_LANES", str(tmp_path / "lanes.toml"))

    def call(*arguments, cluster='[cluster]\naddress = "head:6379"\n', snapshot=None):
        (tmp_path / "lanes.toml").write_text(cluster + LANES, "utf-8")
        if snapshot:
            write_atomically(nodes_file(load_settings()), encode(snapshot))
        monkeypatch.setattr(sys, "argv", ["lmdyno", "nodes", *arguments])
        try:
            program.main()
            code = 0
        except SystemExit as end:
            code = end.code
        return code, "".join(capsys.readouterr())

    return call


def test_it_lists_nodes_and_what_is_wrong_with_them(run):
    code, text = run(snapshot=a_snapshot(a_node(), a_lost_node()))
    assert code == 0
    rows = {name: [line for line in text.splitlines() if f"│ {name}" in line] for name in ("gpu1", "gpu2")}
    assert "connected" in rows["gpu1"][0]
    assert "connected" not in rows["gpu2"][0]
    assert "hf" in rows["gpu2"][0]


def test_as_json(run):
    code, text = run("--json", snapshot=a_snapshot(a_node(), a_lost_node()))
    document = json.loads(text)
    assert (code, document["address"], document["error"]) == (0, "head:6379", None)
    first, second = document["nodes"]
    assert (first["node"], first["error"], first["gpus"][0]["index"]) == ("gpu1", None, 0)
    assert (second["lanes"], second["error"]["code"]) == (["hf"], "node-silent")


def test_a_cluster_that_is_not_connected_is_an_error(run):
    code, text = run()
    assert code == 1
    assert "isn't connected to the Ray cluster" in text


def test_without_a_cluster_the_lanes_file_is_named(run):
    code, text = run(cluster="")
    assert code == 2
    assert "lanes.toml has no cluster" in text
