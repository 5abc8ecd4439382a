"""The folders that are pushed to Hugging Face Spaces and OpenXLab."""

import ast
import re
import tomllib

import pytest
import replay_folder

from core.replay.recording import recordings_in, write
from core.settings import PROJECT_ROOT
from tests.unit.replay.test_replay_recording import RECORDING

START = {"spaces": "start.sh", "openxlab": "app.py"}


@pytest.fixture(params=replay_folder.PLATFORMS)
def pushed(request, tmp_path):
    """The platform, and the folder for it with one recording."""
    recording = tmp_path / "demo.json.xz"
    write(RECORDING, recording, paths={})
    folder = tmp_path / "folder"
    replay_folder.write(request.param, folder, [recording])
    return request.param, folder


def test_it_holds_the_dashboard_and_the_recording_but_no_weights_and_tests(pushed):
    platform, folder = pushed
    top = {path.name for path in folder.iterdir()}
    assert {"core", "pages", "assets", "streamlit_app.py", "requirements.txt", "README.md"} <= top
    assert START[platform] in top
    assert not {"tests", "deploy", "docs"} & top
    assert not list(folder.rglob("*.safetensors"))
    assert list(recordings_in(folder / "assets" / "recording")) == ["demo"]
    assert tomllib.loads((folder / ".streamlit" / "config.toml").read_text("utf-8"))["server"]
    assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) < 10_000_000


def test_it_installs_what_the_replay_needs(pushed):
    _platform, folder = pushed
    pins = (folder / "requirements.txt").read_text("utf-8")
    assert pins == (PROJECT_ROOT / "requirements-replay.txt").read_text("utf-8")
    assert not re.search("torch|lmdeploy|transformers", pins)


def test_it_starts_in_replay_mode_on_the_platforms_port(pushed):
    platform, folder = pushed
    script = (folder / START[platform]).read_text("utf-8")
    assert re.search(r"LMDYNO_MODE\"?[=:] ?\"?replay", script)
    assert "7860" in script
    if platform == "openxlab":
        ast.parse(script)
    else:
        head = (folder / "README.md").read_text("utf-8").split("---")[1]
        assert "sdk: docker" in head
        assert "app_port: 7860" in head


def test_a_folder_that_holds_something_is_left_alone(tmp_path):
    (tmp_path / "mine").write_text("kept")
    with pytest.raises(SystemExit):
        replay_folder.write("spaces", tmp_path)
