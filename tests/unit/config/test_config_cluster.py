"""`[cluster]` and the node of a lane: what the lanes file may say, and what the dashboard's changes keep."""

from dataclasses import replace

import pytest

from core.config import load_lanes
from core.config.changes import changes_file, save_lane
from core.domain.specs import ClusterSpec
from core.errors import ConfigError
from core.settings import load_settings

LANES = '[models.demo]\ncheckpoint = "demo"\n[lanes.hf]\nengine = "transformers"\nmodel = "demo"\n'


@pytest.fixture
def settings(tmp_path):
    base = load_settings({"LMDYNO_HOME": str(tmp_path / "home")})
    return replace(base, lanes_file=tmp_path / "lanes.toml")


@pytest.fixture
def load(settings):
    def load(text):
        settings.lanes_file.write_text(text, "utf-8")
        return load_lanes(settings, gpu=False)

    return load


@pytest.mark.parametrize("address", ["auto", "ray-head:6379", "127.0.0.2:6391", "[::1]:6379"])
def test_a_cluster_is_an_address(load, address):
    registry = load(f'[cluster]\naddress = "{address}"\n{LANES}node = "gpu-1"\n')
    assert registry.cluster == ClusterSpec(address=address)
    assert registry.lane("hf").node == "gpu-1"


def test_the_home_on_the_nodes_is_a_whole_path(load):
    registry = load(f'[cluster]\naddress = "auto"\nhome = "/data/lmdyno"\n{LANES}')
    assert registry.cluster == ClusterSpec(address="auto", home="/data/lmdyno")


def test_without_a_cluster_there_is_none(load):
    registry = load(LANES)
    assert registry.cluster is None
    assert registry.lane("hf").node is None


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        (f'cluster = "auto"\n{LANES}', "line 1: [cluster] is not a table", "[cluster]"),
        (f"[cluster]\n{LANES}", "[cluster] has no address", "HOST:6379"),
        (f'[cluster]\naddress = "ray://h:1"\n{LANES}', "line 2: [cluster] address is not the", "auto"),
        (f"[cluster]\naddress = 6379\n{LANES}", "line 2: [cluster] address is not the", "HOST:6379"),
        (f'[cluster]\naddress = "auto"\nhome = "data"\n{LANES}', "line 3: [cluster] home is not", "slash"),
        (f'[cluster]\naddress = "auto"\nport = 1\n{LANES}', "line 3: [cluster] port is not a key", "address"),
        (f'{LANES}node = "gpu-1"\n', "line 6: [lanes.hf] node names a node, but", "Add [cluster]"),
        (
            f'[cluster]\naddress = "auto"\n{LANES}node = "../x"\n',
            "line 8: [lanes.hf] node is not the name",
            "--node-name",
        ),
        (f'[cluster]\naddress = "auto"\n{LANES}node = 3\n', "line 8: [lanes.hf] node is not the name", "ray"),
    ],
)
def test_mistakes_are_told_with_their_line(load, text, message, hint):
    with pytest.raises(ConfigError) as caught:
        load(text)
    assert message in caught.value.message
    assert hint in caught.value.hint


def test_the_lanes_file_alone_says_where_a_lane_runs(load, settings):
    registry = load(f'[cluster]\naddress = "auto"\n{LANES}node = "gpu-1"\n')
    lane = registry.lane("hf")
    save_lane(settings, replace(lane, settings=replace(lane.settings, start_timeout_s=9.0), node="gpu-2"))
    assert "node" not in changes_file(settings).read_text("utf-8")
    changed = load_lanes(settings, gpu=False).lane("hf")
    assert changed.settings.start_timeout_s == 9.0
    assert changed.node == "gpu-1"
