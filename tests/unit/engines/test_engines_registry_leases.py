"""Leases: many users, one stopper, and nothing left behind."""

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from core.engines.registry import in_use, lease, sole_use
from core.errors import EngineBusy
from core.files import lock_path, locked, try_lock, unlock
from tests.unit.engines.engine_stand_ins import settings_in

HOLDER = """
import sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from core.engines.registry import lease
from core.settings import Settings
home = Path(sys.argv[2])
with lease(Settings(home=home, lanes_file=home, database_url=""), "hf"):
    sys.stdout.write("held\\n")
    sys.stdout.flush()
    sys.stdin.read()
"""


def test_many_requests_share_an_engine(tmp_path):
    settings = settings_in(tmp_path)
    assert not in_use(settings, "hf")
    with lease(settings, "hf"):
        with lease(settings, "hf"):
            assert in_use(settings, "hf")
            assert not in_use(settings, "other")
        assert in_use(settings, "hf")
    assert not in_use(settings, "hf")


def test_sole_use_waits_for_nobody(tmp_path):
    settings = settings_in(tmp_path)
    with lease(settings, "hf"), pytest.raises(EngineBusy), sole_use(settings, "hf"):
        pass
    with sole_use(settings, "hf"), pytest.raises(EngineBusy), lease(settings, "hf"):
        pass


def test_looking_does_not_keep_a_request_out(tmp_path):
    settings = settings_in(tmp_path)
    with lease(settings, "hf"):
        pass
    stop = threading.Event()

    def look():
        while not stop.is_set():
            in_use(settings, "hf")

    watchers = [threading.Thread(target=look) for _ in range(2)]
    for watcher in watchers:
        watcher.start()
    try:
        for _ in range(50):
            with lease(settings, "hf"):
                pass
    finally:
        stop.set()
        for watcher in watchers:
            watcher.join()


def test_lease_of_a_killed_process_is_gone(tmp_path):
    settings = settings_in(tmp_path)
    root = Path(__file__).parents[3]
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(root), str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        assert holder.stdout.readline() == b"held\n"
        assert in_use(settings, "hf")
    finally:
        holder.kill()
        holder.communicate()
    assert not in_use(settings, "hf")


def test_lock_is_exclusive_and_comes_back(tmp_path):
    path = lock_path(tmp_path, "odd/name")
    assert path.parent == tmp_path
    held = try_lock(path)
    assert try_lock(path) is None
    unlock(held)
    with locked(path):
        assert try_lock(path, shared=True) is None
    unlock(try_lock(path, shared=True))
