"""`metrics`: what is published of a home, and who can read it."""

import socket
import sys
import threading
import urllib.request

import pytest
from prometheus_client.parser import text_string_to_metric_families

from core import __main__ as program
from core.cli import machine
from core.engines.registry import lease
from core.meter.protocol import marked_running
from core.settings import Settings, load_settings

LANES = """
[lanes.lab]
engine = "endpoint"
url = "http://127.0.0.1:9/v1"

[models.any]
checkpoint = "demo"

[lanes.hf]
engine = "transformers"
model = "any"
"""


@pytest.fixture
def settings(tmp_path, monkeypatch) -> Settings:
    (tmp_path / "lanes.toml").write_text(LANES, "utf-8")
    environment = {"LMDYNO_HOME": str(tmp_path), "LMDYNO_LANES": str(tmp_path / "lanes.toml")}
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("LMDYNO_DATABASE_URL", raising=False)
    return load_settings()


@pytest.fixture
def published(settings, monkeypatch, capsys):
    """Runs `lmdyno metrics`; returns the value of each sample by its name and labels."""

    def call() -> dict[tuple[str, ...], float]:
        monkeypatch.setattr(sys, "argv", ["core", "metrics"])
        with pytest.raises(SystemExit) as ended:
            program.main()
        assert not ended.value.code
        return {
            (sample.name, *sorted(sample.labels.values())): sample.value
            for family in text_string_to_metric_families(capsys.readouterr().out)
            for sample in family.samples
        }

    return call


def test_a_home_where_nothing_runs(published):
    values = published()
    assert values["lmdyno_engine_state", "hf", "stopped", "transformers"] == 1
    assert values["lmdyno_engine_state", "healthy", "hf", "transformers"] == 0
    assert values["lmdyno_meter_up",] == 0
    assert values["lmdyno_stored_entries", "chat"] == 0
    assert values["lmdyno_jobs", "running"] == 0
    assert {value for (name, *_), value in values.items() if name == "lmdyno_part_readable"} == {1}


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux lists its locks")
def test_leases_are_counted_by_lane(published, settings):
    with lease(settings, "lab"), lease(settings, "lab"):
        values = published()
    assert values["lmdyno_leases", "lab"] == 2
    assert values["lmdyno_leases", "hf"] == 0
    assert published()["lmdyno_leases", "lab"] == 0


def test_a_running_meter_is_up(published, settings):
    with marked_running(settings), marked_running(settings):
        assert published()["lmdyno_meter_up",] == 1
    assert published()["lmdyno_meter_up",] == 0


def test_a_part_that_cannot_be_read_is_missing_and_named(published, settings):
    settings.lanes_file.write_text("[lanes.hf]\n", "utf-8")
    values = published()
    assert values["lmdyno_part_readable", "lanes"] == 0
    assert values["lmdyno_part_readable", "store"] == 1
    assert not [name for name, *_ in values if name == "lmdyno_engine_state"]


def test_it_is_served_on_loopback(settings, monkeypatch):
    started: list[tuple[object, threading.Thread]] = []
    addresses: list[str] = []
    real = machine.start_http_server

    def start(port, address, registry):
        server, thread = real(0, address, registry)
        addresses.append(address)
        started.append((server, thread))
        with urllib.request.urlopen(f"http://127.0.0.1:{server.server_port}/metrics", timeout=30) as answer:
            assert b"lmdyno_meter_up 0.0" in answer.read()
        server.shutdown()
        return server, thread

    monkeypatch.setattr(machine, "start_http_server", start)
    machine.metrics(port=9464)
    assert addresses == ["127.0.0.1"]


def test_a_port_that_is_taken_is_told(settings, monkeypatch, capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        monkeypatch.setattr(sys, "argv", ["core", "metrics", "--port", str(taken.getsockname()[1])])
        with pytest.raises(SystemExit) as ended:
            program.main()
    assert ended.value.code == 2
    assert "Choose another port" in capsys.readouterr().err
