"""`engines` from end to end, with real processes in the place of engines."""

import json
import os
import signal
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[2]
sys.path.insert(0, str(TESTS / "unit" / "engines"))

from core import __main__ as program  # noqa: E402
from core.cli import engines as command  # noqa: E402
from core.engines.manager import EngineManager  # noqa: E402
from core.engines.registry import lease  # noqa: E402
from tests.unit.engines.engine_stand_ins import gone, lane_in, rows, settings_in  # noqa: E402

LANES = ("hf", "other")


@pytest.fixture
def manager(tmp_path, monkeypatch):
    """The engines that the commands find; all are ended afterwards."""

    def make(*options: str) -> EngineManager:
        lanes = [lane_in(tmp_path, name) for name in LANES]
        return EngineManager(settings_in(tmp_path), lanes, persistent=True, rows=rows(*options), grace_s=1.0)

    monkeypatch.setattr(command, "_manager", make)
    yield make
    for name in LANES:
        make().stop(name, force=True)


@pytest.fixture
def run(manager, monkeypatch, capsys):
    """Runs `lmdyno engines …`; returns its exit code and what it printed."""

    def call(*arguments: str):
        monkeypatch.setattr(sys, "argv", ["core", "engines", *arguments])
        with pytest.raises(SystemExit) as ended:
            program.main()
        printed = capsys.readouterr()
        return ended.value.code, printed.out, printed.err

    return call


def pids(run) -> dict[str, int | None]:
    return {lane["lane"]: lane["pid"] for lane in json.loads(run("list", "--json")[1])}


def test_an_engine_lives_from_start_to_stop(run):
    code, out, _ = run("start", "hf", "--json")
    started = json.loads(out)
    assert (code, started["state"], started["error"]) == (0, "healthy", None)
    assert pids(run) == {"hf": started["pid"], "other": None}

    code, out, _ = run("stop", "hf", "--json")
    assert (code, json.loads(out)) == (0, [{"lane": "hf", "error": None}])
    assert gone(started["pid"])
    assert pids(run) == {"hf": None, "other": None}


def test_a_failed_engine_says_why_below_the_table(run):
    run("start", "hf")
    os.killpg(pids(run)["hf"], signal.SIGKILL)
    lines = run("list")[1].splitlines()
    error = next(lane["error"] for lane in json.loads(run("list", "--json")[1]) if lane["error"])
    assert "\n".join(lines[-2:]) == f"hf: {error['message']}\n{error['hint']}"


def test_the_log_is_told_line_by_line(run, tmp_path):
    assert json.loads(run("logs", "hf", "--json")[1])["lines"] == []
    run("start", "hf")
    code, out, _ = run("logs", "hf", "--lines", "1", "--json")
    told = json.loads(out)
    assert (code, told["lane"]) == (0, "hf")
    (line,) = told["lines"]
    assert "Uvicorn running" in line
    assert line in Path(told["log_file"]).read_text()
    assert run("logs", "hf", "--lines", "1")[1] == f"{line}\n"


def test_an_engine_in_use_stays_and_the_others_are_stopped(run, tmp_path):
    for name in LANES:
        assert run("start", name)[0] == 0
    before = pids(run)
    with lease(settings_in(tmp_path), "hf"):
        code, out, _ = run("stop", "--all", "--json")
        assert code == 1
        busy, ended = json.loads(out)
        assert (busy["lane"], busy["error"]["code"]) == ("hf", "engine-busy")
        assert busy["error"]["message"]
        assert busy["error"]["hint"]
        assert ended == {"lane": "other", "error": None}
        assert pids(run) == {"hf": before["hf"], "other": None}

        code, out, err = run("stop", "hf")
        assert (code, out) == (1, "")
        assert "answering a request" in err
        assert run("stop", "hf", "--force")[:2] == (0, "hf stopped\n")
    assert gone(before["hf"])


def test_stopping_all_when_nothing_runs_is_no_error(run):
    code, out, _ = run("stop", "--all", "--json")
    assert (code, json.loads(out)) == (0, [])


def test_a_start_that_fails_is_told_as_a_document(run, manager, monkeypatch):
    monkeypatch.setattr(command, "_manager", lambda: manager("--exit", "3"))
    code, out, _ = run("start", "hf", "--json")
    told = json.loads(out)
    assert (code, told["lane"]) == (1, "hf")
    assert told["error"]["message"]


def test_so_is_one_that_another_engine_is_in_the_way_of(run, manager, monkeypatch, tmp_path):
    run("start", "hf")
    other = [lane_in(tmp_path, "hf", dtype="float32")]
    changed = EngineManager(settings_in(tmp_path), other, persistent=True, rows=rows())
    monkeypatch.setattr(command, "_manager", lambda: changed)
    code, out, _ = run("start", "hf", "--json")
    assert (code, json.loads(out)["error"]["code"]) == (1, "engine-settings-differ")


@pytest.mark.parametrize(
    "arguments", [("start", "typo"), ("stop", "typo"), ("logs", "typo"), ("stop",), ("stop", "hf", "--all")]
)
@pytest.mark.parametrize("form", [(), ("--json",)])
def test_what_names_no_lane_is_wrong_usage(run, arguments, form):
    code, out, err = run(*arguments, *form)
    assert (code, out) == (2, "")
    assert err
