"""`quality` and `runs` from end to end, against toy models behind LMDeploy's endpoints."""

import json
from contextlib import closing
from pathlib import Path

import pytest
import typer

from core.cli import quality, runs
from core.codec import decode
from core.config import LaneRegistry
from core.errors import InputError
from core.quality.image_quiz import QuizRun, keep
from core.settings import Settings
from core.store.runs import QualityRuns
from tests.unit.quality import quality_samples as samples
from tests.unit.quality import quiz_samples
from tests.unit.quality.toy_server import ToyModel, serving


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    home = tmp_path / "home"
    return Settings(home=home, lanes_file=home / "lanes.toml", database_url=f"sqlite:///{home / 'lmdyno.db'}")


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, settings: Settings):
    """Runs a command line; returns its exit code."""
    registry = LaneRegistry(models=(), lanes=(), source=None)
    monkeypatch.setattr(quality.context, "load", lambda: (settings, registry))
    app = typer.Typer(pretty_exceptions_enable=False)
    app.command()(quality.quality)
    app.add_typer(runs.app, name="runs")

    def call(*arguments: str) -> int:
        return app(list(arguments), standalone_mode=False) or 0

    return call


@pytest.fixture
def endpoints():
    with serving(ToyModel()) as one, serving(ToyModel(nats_scale=1.1)) as two:
        lanes = ["--endpoint", one, "--endpoint", two, "--model", "toy", "--model", "toy"]
        yield [*lanes, "--dialect", "lmdeploy", "--prompts", "2"]


@pytest.fixture
def own_set(tmp_path: Path) -> str:
    file = tmp_path / "own.csv"
    file.write_text("prompt,answers\nhello,hello\nbye,farewell\n")
    return str(file)


def test_a_comparison_prints_figures_and_verdicts(run, endpoints, own_set, capsys):
    assert run("quality", *endpoints, "--tasks", own_set, "--text", "own-answers") == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "endpoint-2 is measurably worse than endpoint-1." in shown
    assert "1 of 2 tasks are correct" in shown
    assert "Stored as" in shown


def test_json_holds_every_figure_and_a_file_every_answer(run, endpoints, own_set, tmp_path, capsys):
    file = tmp_path / "out.json"
    run("quality", *endpoints, "--tasks", own_set, "--text", "own-answers", "--json", "--out", str(file))
    found = json.loads(capsys.readouterr().out)
    assert found["reference"] == "endpoint-1"
    assert [verdict["level"] for verdict in found["verdicts"]] == ["reference", "worse"]
    assert found["answers"] == []
    assert len(json.loads(file.read_text())["answers"]) == 2 * (2 + 2) + 2


def test_own_files_that_are_not_there_are_refused(run, endpoints):
    with pytest.raises(InputError, match="none"):
        run("quality", *endpoints, "--tasks", "none.csv")


def test_kv_bits_need_a_lane_that_has_them(run, endpoints):
    with pytest.raises(InputError, match="KV cache"):
        run("quality", *endpoints, "--kv", "8")


def test_a_run_is_shown_exported_imported_and_compared(run, settings, tmp_path, capsys):
    with closing(QualityRuns(settings.database_url)) as store:
        store.add(samples.record())
    run("runs", "show", "q1")
    assert "awq is measurably worse than hf." in " ".join(capsys.readouterr().out.split())
    for name in ("run.json", "run.csv", "run.html", "run.parquet"):
        run("runs", "export", "q1", "--out", str(tmp_path / name))
    document = json.loads((tmp_path / "run.json").read_text())
    document["id"] = "q2"
    copy = tmp_path / "copy.json"
    copy.write_text(json.dumps(document))
    run("runs", "import", str(copy))
    assert "Imported q2" in capsys.readouterr().out
    run("runs", "compare", "q1", "q2", "--json")
    found = json.loads(capsys.readouterr().out)
    assert found["lanes"][2]["runs"][0] == found["lanes"][2]["runs"][1]
    run("runs", "list", "--kind", "quality", "--json")
    assert [entry["id"] for entry in json.loads(capsys.readouterr().out)] == ["q1", "q2"]
    with pytest.raises(InputError, match="same kind"):
        run("runs", "compare", "q1", "nothing")


def test_a_quiz_is_shown_and_exported_as_json(run, settings, tmp_path, capsys):
    settings.home.mkdir(parents=True)
    asked = quiz_samples.plan(quiz_samples.question("?", "yes"))
    quiz = quiz_samples.run(asked, tuple(quiz_samples.record(lane, "yes") for lane in asked.lanes))
    keep(settings, quiz)
    assert run("runs", "show", asked.id) == 0
    assert decode(QuizRun, capsys.readouterr().out) == quiz
    file = tmp_path / "quiz.json"
    assert run("runs", "export", asked.id, "--out", str(file)) == 0
    assert decode(QuizRun, file.read_text()) == quiz
    with pytest.raises(InputError, match="only as JSON"):
        run("runs", "export", asked.id, "--format", "csv")
