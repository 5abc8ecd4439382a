import sys
from datetime import timedelta
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from core.cli import models
from core.cli import models as command
from core.config import LaneRegistry
from core.domain.specs import ModelSpec
from core.domain.turns import ErrorInfo, utc_now
from core.errors import ConfigError, InputError
from core.jobs.registry import JobRecord, JobSpec, JobState, JobStatus
from core.models.awq.check import Concern
from core.models.awq.options import AwqOptions
from core.settings import Settings


@pytest.fixture
def prepared(monkeypatch, tmp_path):
    """Which demo models are prepared by a command line."""
    done = []
    monkeypatch.setenv("LMDYNO_HOME", str(tmp_path))
    monkeypatch.setattr(models.Nvml, "devices", lambda nvml: ())
    for kind, name in (("text", "demo"), ("vision", "demo_vision")):
        monkeypatch.setattr(
            models.demo_models, f"is_{kind}_prepared", lambda settings, name=name: name in done
        )
        monkeypatch.setattr(
            models.demo_models, f"prepare_{kind}", lambda settings, report, name=name: done.append(name)
        )

    def run(*arguments):
        app = typer.Typer()
        app.command()(models.prepare_demo)
        app.command("other")(lambda: None)
        app(["prepare-demo", *arguments], standalone_mode=False)
        return done

    return run


def test_the_demo_vision_model_can_be_left_out_and_is_prepared_once(prepared):
    assert prepared("--no-vision") == ["demo"]
    assert prepared() == ["demo", "demo_vision"]
    assert prepared() == ["demo", "demo_vision"]


def test_the_list_of_commands_says_what_demo_prepares():
    lines = CliRunner().invoke(models.app, ["--help"]).stdout
    assert "SmolLM2" in lines
    assert "LLaVA" in lines


SPEC = JobSpec(kind="quantise", title="", worker="", arguments={}, python=sys.executable, id="j1")
RESULT = {"path": "/models/demo-awq", "source_bytes": 2**30, "result_bytes": 2**29}


class ScriptedJobs:
    """A job that goes through the given records, one at each look."""

    def __init__(self, *records: JobRecord) -> None:
        self.records = list(records)
        self.cancelled = False

    def status(self, job_id: str) -> JobStatus:
        record = self.records.pop(0) if len(self.records) > 1 else self.records[0]
        return JobStatus(SPEC, record)

    def cancel(self, job_id: str) -> None:
        self.cancelled = True
        self.records = [JobRecord(state=JobState.CANCELLED)]

    def wait(self, job_id: str, timeout_s: float) -> JobStatus:
        return self.status(job_id)

    def log_tail(self, job_id: str, lines: int) -> str:
        return "the last line of the log"


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Runs the command over a scripted job; returns the exit code and what was asked: [(model, options)]."""
    settings = Settings(home=tmp_path, lanes_file=tmp_path / "lanes.toml", database_url="sqlite://")
    demo = ModelSpec(name="demo", checkpoint=str(tmp_path / "demo"))
    monkeypatch.setattr(
        command.context, "load", lambda: (settings, LaneRegistry(models=(demo,), lanes=(), source=None))
    )
    warning = Concern(InputError("It is slow", hint="Wait."), blocking=False)
    monkeypatch.setattr(command, "check_quantization", lambda *_: (warning,))
    monkeypatch.setattr(command, "_LOOK_S", 0.0)
    asked: list[tuple[ModelSpec, AwqOptions]] = []

    def start(_: Settings, model: ModelSpec, options: AwqOptions) -> str:
        asked.append((model, options))
        return "j1"

    monkeypatch.setattr(command, "start_quantizing", start)

    def run(jobs: ScriptedJobs, *arguments: str) -> tuple[int, list[tuple[ModelSpec, AwqOptions]]]:
        monkeypatch.setattr(command, "Jobs", lambda settings: jobs)
        app = typer.Typer(pretty_exceptions_enable=False)
        app.command()(command.quantize)
        return app(list(arguments), standalone_mode=False) or 0, asked

    return run


def test_a_model_of_the_lanes_file_with_its_options(started, capsys: pytest.CaptureFixture[str]) -> None:
    now = utc_now()
    running = JobRecord(
        state=JobState.RUNNING, started_at=now, progress=0.5, progress_at=now, stage="packing"
    )
    done = JobRecord(
        state=JobState.DONE, started_at=now, finished_at=now + timedelta(seconds=75), result=RESULT
    )

    code, ((model, options),) = started(
        ScriptedJobs(running, done),
        "demo",
        "--calibration",
        "c4",
        "--samples",
        "8",
        "--search-scale",
        "--out",
        "/x",
    )

    assert (code, model.name) == (0, "demo")
    assert options == AwqOptions(calibration="c4", samples=8, search_scale=True, out="/x")
    shown = capsys.readouterr()
    assert shown.out == "/models/demo-awq: 1.00 GiB → 512 MiB in 1 min 15 s\n"
    assert "It is slow" in shown.err


def test_a_node_can_do_it(started, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    nodes: list[tuple[str, str]] = []

    def on_node(_: Settings, node: str, model: ModelSpec, options: AwqOptions) -> str:
        nodes.append((node, model.name))
        return "j1"

    monkeypatch.setattr(command, "quantize_on", on_node)
    done = JobRecord(state=JobState.DONE, started_at=utc_now(), finished_at=utc_now(), result=RESULT)
    code, here = started(ScriptedJobs(done), "demo", "--node", "gpu-1")
    assert (code, here, nodes) == (0, [], [("gpu-1", "demo")])
    assert "It is slow" not in capsys.readouterr().err


def test_a_folder_is_a_model_too(started, tmp_path: Path) -> None:
    (tmp_path / "my-llama").mkdir()
    _, ((model, _),) = started(
        ScriptedJobs(JobRecord(state=JobState.DONE, result=RESULT)), str(tmp_path / "my-llama")
    )
    assert (model.name, model.checkpoint) == ("my-llama", str(tmp_path / "my-llama"))


def test_an_unknown_model_is_told(started) -> None:
    with pytest.raises(ConfigError, match="nobody"):
        started(ScriptedJobs(JobRecord()), "nobody")


def test_a_failure_shows_why_and_exits_with_1(started, capsys: pytest.CaptureFixture[str]) -> None:
    failed = JobRecord(state=JobState.FAILED, error=ErrorInfo("disk-full", "The disk is full", "Free space."))

    code, _ = started(ScriptedJobs(failed), "demo")

    assert code == 1
    shown = capsys.readouterr().err
    assert "The disk is full" in shown
    assert "the last line of the log" in shown


def test_json_holds_the_result(started, capsys: pytest.CaptureFixture[str]) -> None:
    started(ScriptedJobs(JobRecord(state=JobState.DONE, result=RESULT)), "demo", "--json")
    assert '"result":{"path":"/models/demo-awq"' in capsys.readouterr().out


def test_ctrl_c_cancels_the_job(
    started, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(_: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(command.time, "sleep", interrupted)
    jobs = ScriptedJobs(JobRecord(state=JobState.RUNNING))

    code, _ = started(jobs, "demo")

    assert jobs.cancelled
    assert code == 1
    assert "Nothing was kept" in capsys.readouterr().err
