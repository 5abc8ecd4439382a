"""Runs whose process was killed, ended by the process that is left beside it."""

import os
import signal
import subprocess
import sys
import time
from contextlib import closing

import pytest

from core.domain.runs import RunState
from core.settings import PROJECT_ROOT, load_settings
from core.store.runs import RUN_INTERRUPTED, BenchRuns
from tests.unit.store.test_store_runs_bench import RUN

MEASURES = """
import sys, time
from core.jobs.aftermath import ended_if_killed
from core.store.runs import RUN_INTERRUPTED
with ended_if_killed(sys.argv[1], RUN_INTERRUPTED):
    print("measures", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def runs(tmp_path, monkeypatch):
    monkeypatch.setenv("LMDYNO_HOME", str(tmp_path))
    with closing(BenchRuns(load_settings().database_url)) as runs:
        yield runs


def test_a_command_that_is_killed_leaves_no_run_that_goes_on(runs):
    runs.save(RUN)
    command = [sys.executable, "-c", MEASURES, RUN.id]
    with subprocess.Popen(command, cwd=PROJECT_ROOT, stdout=subprocess.PIPE) as measuring:
        measuring.stdout.readline()
        os.kill(measuring.pid, signal.SIGKILL)
    deadline = time.monotonic() + 30
    while (ended := runs.run(RUN.id)).state is RunState.RUNNING and time.monotonic() < deadline:
        time.sleep(0.05)
    assert ended.state is RunState.FAILED
    assert ended.error == RUN_INTERRUPTED
