import pytest
from typer.testing import CliRunner

from core.__main__ import COMMANDS, build
from core.errors import ConfigError


@pytest.mark.parametrize(
    "command",
    [
        ["chat", "Hello", "--lane", "hf"],
        ["bench", "--lane", "hf"],
        ["doctor"],
        ["engines", "list"],
        ["engines", "start", "hf"],
        ["quantize", "tiny"],
        ["memory", "predict", "tiny", "--ratio", "0.4"],
        ["memory", "sweep", "tiny"],
    ],
)
def test_a_lanes_file_that_is_named_has_to_be_there(monkeypatch, tmp_path, command):
    monkeypatch.setenv("LMDYNO_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("LMDYNO_LANES", str(tmp_path / "none.toml"))
    assert command[0] in COMMANDS
    done = CliRunner().invoke(build(command[:1]), command)
    assert isinstance(done.exception, ConfigError)
    assert done.exception.code == "lanes-file-missing"
    assert str(tmp_path / "none.toml") in done.exception.message
    assert "LMDYNO_LANES" in done.exception.hint
