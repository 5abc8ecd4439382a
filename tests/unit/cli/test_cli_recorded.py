"""Stored walks and recordings on the command line, over a real store."""

import json
import sys
from dataclasses import replace

import pytest

from core import __main__ as program
from core.domain.turns import Phase
from core.replay.recording import Recording, fill, read
from core.settings import load_settings
from tests.unit.replay.recorded import AT, lane, request, timing, turn, walk

ANSWER = timing(sent_s=1, chunks_s=(2,), content=(2,), ended_s=3, tokens=1)
TURN = replace(turn(request("hf", "Hi", ANSWER)), owner=None)
WALK = replace(walk(1.0, 0.0, 2.0), lanes=(lane("hf"),))


@pytest.fixture
def run(monkeypatch, capsysbinary, tmp_path):
    """Runs `lmdyno` with a home that holds a turn and a walk; gives exit code and output."""
    monkeypatch.setenv("LMDYNO_HOME", str(tmp_path / "home"))
    settings = load_settings()
    settings.home.mkdir()
    fill(settings, Recording(title="", recorded_at=AT, lmdyno="0.2.0", turns=(TURN,), walk=WALK))

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["lmdyno", *map(str, arguments)])
        with pytest.raises(SystemExit) as raised:
            program.main()
        captured = capsysbinary.readouterr()
        return int(raised.value.code or 0), (captured.out + captured.err).decode()

    return call


def test_a_stored_walk_is_shown_step_by_step(run):
    code, text = run("runs", "show", WALK.id)
    assert code == 0
    assert "1. Check the environment" in text
    assert "2 steps done, 1 skipped, 0 failed" in text
    code, text = run("runs", "show", WALK.id, "--json")
    assert json.loads(text)["id"] == WALK.id


def test_a_stored_walk_is_exported_as_json_and_report(run, tmp_path):
    assert run("runs", "export", WALK.id, "--out", tmp_path / "walk.html")[0] == 0
    assert "Check the environment" in (tmp_path / "walk.html").read_text("utf-8")
    assert json.loads(run("runs", "export", WALK.id)[1])["model"] == "tiny"
    code, text = run("runs", "export", WALK.id, "--format", "csv")
    assert code == 2
    assert "csv" in text


def test_entries_are_recorded_into_a_file_that_can_be_read(run, tmp_path):
    file, source = tmp_path / "demo.json.xz", tmp_path / "walk.json"
    run("runs", "export", WALK.id, "--out", source)
    code, text = run("record", file, TURN.id, "--walk", source, "--title", "Demo")
    assert code == 0
    assert "turns 1, walk 1" in text
    recording = read(file)
    assert recording.title == "Demo"
    assert recording.turns[0].requests[0].phase is Phase.DONE
    assert recording.walk.steps == WALK.steps


def test_an_unknown_id_is_named(run, tmp_path):
    code, text = run("record", tmp_path / "demo.json.xz", "0123456789abcdef")
    assert code == 2
    assert "0123456789abcdef" in text
