"""Whether memory had run out when a job was killed; and runs whose process was killed, ended by the process
that is left beside it."""

import os
import signal
import subprocess
import sys
import time
from contextlib import closing
from dataclasses import replace

import pytest

from core.domain.runs import RunState
from core.jobs import runner
from core.jobs.registry import JobFolder, JobSpec
from core.jobs.runner import Runner, out_of_memory_kills
from core.settings import PROJECT_ROOT, load_settings
from core.store.runs import RUN_INTERRUPTED, BenchRuns
from tests.unit.store.test_store_runs_bench import RUN

MEASURES = """
import sys, time
from core.jobs.runner import ended_if_killed
from core.store.runs import RUN_INTERRUPTED
with ended_if_killed(sys.argv[1], RUN_INTERRUPTED):
    print("measures", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def machine(tmp_path):
    """A machine's files, with a control group that has killed 3 and a machine that has killed 7."""
    group = tmp_path / "groups" / "user.slice"
    group.mkdir(parents=True)
    (tmp_path / "cgroup").write_text("1:cpu:/x\n0::/user.slice\n")
    (group / "memory.events").write_text("low 0\noom 4\noom_kill 3\noom_group_kill 0\n")
    (tmp_path / "vmstat").write_text("nr_free_pages 5\noom_kill 7\n")
    return {
        "cgroup": tmp_path / "cgroup",
        "cgroups": tmp_path / "groups",
        "whole_machine": tmp_path / "vmstat",
    }


def test_the_control_group_counts_its_own(machine):
    assert out_of_memory_kills(**machine) == 3


def test_without_a_control_group_the_machine_counts(machine, tmp_path):
    assert out_of_memory_kills(**{**machine, "cgroup": tmp_path / "missing"}) == 7
    (tmp_path / "groups" / "user.slice" / "memory.events").unlink()
    assert out_of_memory_kills(**machine) == 7


def test_a_system_that_does_not_count_is_unknown(tmp_path):
    missing = tmp_path / "missing"
    assert out_of_memory_kills(cgroup=missing, cgroups=missing, whole_machine=missing) is None


@pytest.mark.parametrize(
    ("before", "after", "code", "words"),
    [
        (3, 4, "job-out-of-memory", "because memory ran out"),
        (3, 3, "job-killed", "Somebody killed"),
        (None, None, "job-killed", "The system or somebody"),
    ],
)
def test_a_kill_is_explained_by_the_count(tmp_path, monkeypatch, before, after, code, words):
    counts = iter([before, after])
    monkeypatch.setattr(runner, "out_of_memory_kills", lambda: next(counts))
    folder = JobFolder(tmp_path / "job")
    spec = JobSpec(kind="test", title="a test", worker="x", arguments={}, python="python")
    folder.create(replace(spec, id="job"))
    error = Runner(folder, tmp_path)._killed()
    assert error.code == code
    assert words in error.message


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
