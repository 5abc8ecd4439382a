import pytest
import typer
from typer.testing import CliRunner

from core.cli import models


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
