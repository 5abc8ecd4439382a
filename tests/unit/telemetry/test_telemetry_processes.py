"""Processes by number and creation time."""

import os
import signal
import socket
import subprocess
import sys
import time
from uuid import uuid4

import pytest

from core.telemetry import processes
from core.telemetry.processes import ProcessId, this_process

PARENT = """
import subprocess, sys
child = subprocess.Popen(
    [sys.executable, "-c", "import time; time.sleep(60)"],
    stdout=subprocess.DEVNULL,  # an end of the parent's pipe would keep the test waiting for it
    start_new_session=True,
)
sys.stdout.write(f"{child.pid}\\n")
sys.stdout.flush()
sys.stdin.read()
"""


@pytest.fixture
def mark():
    """The value of an environment variable that only this test's processes have."""
    return uuid4().hex


@pytest.fixture
def parent(mark):
    """A process with one child in another session, both marked."""
    started = subprocess.Popen(
        [sys.executable, "-c", PARENT],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "LMDYNO_TEST_MARK": mark},
    )
    child = int(started.stdout.readline())
    yield started, child
    started.kill()
    started.communicate()
    for process in processes.with_environment("LMDYNO_TEST_MARK", mark):
        os.kill(process.pid, signal.SIGKILL)


def test_this_process_is_alive_and_nobody_else_with_its_number():
    me = this_process()
    assert me.alive
    assert not ProcessId(me.pid, me.created_s - 60).alive
    assert processes.resident_bytes([me.pid]) > 2**20
    assert processes.process_created_s(me.pid) == me.created_s


def test_zombie_is_dead():
    child = subprocess.Popen([sys.executable, "-c", ""])
    known = processes.identify(child.pid)
    deadline = time.monotonic() + 10
    while known.alive and time.monotonic() < deadline:
        time.sleep(0.02)
    assert processes.process_created_s(child.pid) is not None
    assert not known.alive
    child.wait()
    assert processes.process_created_s(child.pid) is None
    assert processes.tree(child.pid) == ()
    assert processes.resident_bytes([child.pid]) is None


def test_tree_and_mark_find_a_child_in_another_session(parent, mark):
    started, child = parent
    assert processes.tree(started.pid) == (started.pid, child)
    started.kill()
    started.wait()
    assert [process.pid for process in processes.with_environment("LMDYNO_TEST_MARK", mark)] == [child]


def test_signal_reaches_only_the_very_process(parent):
    _, child = parent
    known = processes.identify(child)
    processes.send_signal(ProcessId(child, known.created_s - 60), signal.SIGKILL)
    assert known.alive
    processes.send_signal(known, signal.SIGKILL)
    deadline = time.monotonic() + 10
    while known.alive and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not known.alive


def test_port_belongs_to_who_listens_on_it():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert processes.listens_on([os.getpid()], port)
        assert not processes.listens_on([os.getppid()], port)
    assert not processes.listens_on([os.getpid()], port)
