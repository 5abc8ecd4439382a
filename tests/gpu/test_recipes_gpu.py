"""Each recipe of the three default lanes runs as it stands and gives an answer."""

import os
import re
import shlex
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from core.config import load_lanes
from core.domain.conversation import Sampling
from core.engines.recipes import KEY_VARIABLE, PORT, recipes
from core.models import demo_models
from core.settings import load_settings

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(500)]

SAMPLING = Sampling(max_tokens=24)
MODULES = {"lmdeploy": "lmdeploy", "transformers": "transformers.cli.transformers"}
"""The console scripts, as modules: an environment may lack the scripts."""


@pytest.fixture(scope="module")
def lanes():
    settings = load_settings()
    demo_models.prepare_text(settings, lambda line: None)
    return load_lanes(settings, gpu=True)


def runnable(code: str) -> tuple[list[str], dict[str, str]]:
    words = shlex.split(code.replace(f'"${KEY_VARIABLE}"', "secret"))
    env = {**os.environ, KEY_VARIABLE: "secret"}
    while "=" in words[0]:
        name, value = words.pop(0).split("=", 1)
        env[name] = value
    if words[0] in MODULES:
        words[0:1] = [sys.executable, "-m", MODULES[words[0]]]
    return words, env


def run(code: str, stdin: str = "", timeout_s: float = 200) -> str:
    words, env = runnable(code)
    done = subprocess.run(words, input=stdin, capture_output=True, text=True, timeout=timeout_s, env=env)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def run_program(code: str, tmp_path: Path) -> str:
    program = tmp_path / "program.py"
    program.write_text(code)
    return run(shlex.join([sys.executable, str(program)]))


@pytest.mark.parametrize("name", ["turbomind", "awq", "hf"])
def test_the_lane_by_hand(lanes, name, tmp_path):
    lane = lanes.lane(name)
    if lane.model.path(lane.weights) is None or not Path(lane.model.path(lane.weights)).exists():
        pytest.fail(f"{name} has no weights: run `lmdyno models demo` first")
    found = {recipe.title: recipe.code for recipe in recipes(lane, sampling=SAMPLING)}
    for title, code in found.items():
        if title.endswith("timed") and "OpenAI" not in title:
            assert re.search(r"\d tok/s", run_program(code, tmp_path)), title
    if "Chat in a terminal" in found:
        said = run(found["Chat in a terminal"], stdin="What is the capital of Japan?\n\nexit\n\n")
        assert len(said.split("double enter to end input >>>")[1].strip()) > 3
    with_server(found, tmp_path)


def with_server(found: dict[str, str], tmp_path: Path) -> None:
    words, env = runnable(found["API server"])
    with (tmp_path / "server.log").open("w") as log:
        server = subprocess.Popen(words, env=env, stdout=log, stderr=log, start_new_session=True)
    try:
        wait_until_healthy(server, tmp_path / "server.log")
        code = found["curl"].replace(f"${KEY_VARIABLE}", "secret")
        answer = subprocess.run(["bash", "-c", code], capture_output=True, text=True, timeout=60)
        assert '"choices"' in answer.stdout, answer.stdout + answer.stderr
        assert re.search(r"TTFT \d", run_program(found["OpenAI client, timed"], tmp_path))
    finally:
        os.killpg(server.pid, 15)
        server.wait(30)


def wait_until_healthy(server: subprocess.Popen, log: Path) -> None:
    deadline = time.monotonic() + 180
    while time.monotonic() < deadline:
        assert server.poll() is None, log.read_text()[-3000:]
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{PORT}/health", timeout=2) as answer:
                if answer.status == 200:
                    return
        except (urllib.error.URLError, OSError):
            time.sleep(0.5)
    pytest.fail("the server did not become healthy")
