"""LMDyno processes beside the tests', over the same home."""

import pytest

from core.engines.manager import EngineManager
from tests.quick_processes import quick
from tests.unit.engines.engine_owner import own
from tests.unit.engines.engine_stand_ins import lane_in, rows, settings_in


class Owner:
    """An LMDyno process beside this one."""

    def __init__(self, home, *options, end_after="never"):
        self.connection, theirs = quick.Pipe()
        self.process = quick.Process(target=own, args=(theirs, home, end_after, *options), daemon=True)
        self.process.start()
        theirs.close()
        assert self.line() == "ready"

    def line(self):
        return self.connection.recv()

    def go(self):
        self.connection.send(None)

    def start(self):
        """Start the engine; its pid when it is healthy."""
        self.go()
        assert self.line() == "started"
        return int(self.line().split()[0])

    def kill(self):
        self.process.kill()
        self.process.join()

    def close(self):
        """Let it end in good order."""
        self.go()
        self.process.join(20)
        assert self.process.exitcode == 0


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
        owner.connection.close()
    manager = EngineManager(settings_in(tmp_path), [lane_in(tmp_path)], rows=rows(), grace_s=1.0)
    manager.stop("hf", force=True)
