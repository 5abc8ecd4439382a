"""LMDyno processes beside the tests', over the same home."""

import subprocess
import sys
from pathlib import Path

import pytest

from core.engines.manager import EngineManager
from tests.unit.engines.engine_stand_ins import lane_in, rows, settings_in

OWNER = Path(__file__).parent / "engine_owner.py"


class Owner:
    """An LMDyno process beside this one."""

    def __init__(self, home, *options, end_after="never"):
        self.process = subprocess.Popen(
            [sys.executable, str(OWNER), str(home), end_after, *options],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.line() == "ready"

    def line(self):
        return self.process.stdout.readline().strip()

    def go(self):
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def start(self):
        """Start the engine; its pid when it is healthy."""
        self.go()
        assert self.line() == "started"
        return int(self.line().split()[0])

    def kill(self):
        self.process.kill()
        self.process.wait()

    def close(self):
        """Let it end in good order."""
        self.go()
        assert self.process.wait(20) == 0


@pytest.fixture
def beside(tmp_path):
    """Starts LMDyno processes over the test's home; afterwards they and all engines are ended."""
    made = []

    def start(*options, **settings):
        made.append(Owner(tmp_path, *options, **settings))
        return made[-1]

    yield start
    for owner in made:
        owner.kill()
        owner.process.stdin.close()
        owner.process.stdout.close()
    manager = EngineManager(settings_in(tmp_path), [lane_in(tmp_path)], rows=rows(), grace_s=1.0)
    manager.stop("hf", force=True)
