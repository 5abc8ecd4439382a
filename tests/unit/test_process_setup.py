"""The limit of open files: raised where that is allowed, told where it is low.

The log of a process, and the heaps that one with many threads makes."""

import errno
import os
import platform
import resource
import subprocess
import sys

import pytest

from core import process_setup
from core.doctor import _open_files
from core.doctor.fitness import Status
from core.settings import PROJECT_ROOT

RAISE = """
import resource
from core import process_setup
resource.setrlimit(resource.RLIMIT_NOFILE, ({soft}, {hard}))
process_setup.allow_many_open_files()
print(*resource.getrlimit(resource.RLIMIT_NOFILE))
"""


STARTED = """
import logging
from core import process_setup
process_setup.configure_logs()
logging.getLogger(__name__).info("at work")
logging.getLogger("core.jobs").info("a job")
"""


def test_a_module_that_is_a_process_of_its_own_logs_as_all_of_core(tmp_path):
    (tmp_path / "worker.py").write_text(STARTED)
    done = subprocess.run(
        [sys.executable, "-m", "worker"],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": f"{tmp_path}:{PROJECT_ROOT}"},
    )
    lines = [line.split(maxsplit=2)[2] for line in done.stderr.splitlines()]
    assert lines == ["INFO worker at work", "INFO core.jobs a job"]


@pytest.mark.parametrize(("soft", "hard", "reached"), [(64, 900, 900), (900, 900, 900)])
def test_the_limit_is_raised_as_far_as_the_system_lets_it(soft, hard, reached):
    done = subprocess.run(
        [sys.executable, "-c", RAISE.format(soft=soft, hard=hard)], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == [str(reached), str(hard)]


@pytest.mark.parametrize(
    ("limits", "reached"),
    [
        ((1024, 2**30), 65_536),
        ((2**20, 2**30), 2**20),
        ((1024, resource.RLIM_INFINITY), 65_536),
        ((resource.RLIM_INFINITY, resource.RLIM_INFINITY), 65_536),
    ],
)
def test_a_limit_beyond_all_need_is_not_asked_for(monkeypatch, limits, reached):
    monkeypatch.setattr(resource, "getrlimit", lambda _what: limits)
    assert process_setup.open_files_allowed() == reached


def test_a_refusal_is_no_failure(monkeypatch):
    def refuse(_what, _limits):
        raise ValueError("not allowed to raise maximum limit")

    monkeypatch.setattr(resource, "getrlimit", lambda _what: (256, resource.RLIM_INFINITY))
    monkeypatch.setattr(resource, "setrlimit", refuse)
    process_setup.allow_many_open_files()


def test_running_out_is_explained_and_other_errors_are_not():
    error = process_setup.explain_open_files(OSError(errno.EMFILE, "Too many open files"))
    assert error.code == "too-many-open-files"
    assert str(process_setup.open_files_allowed()) in error.message
    assert process_setup.explain_open_files(OSError(errno.EACCES, "Permission denied")) is None


@pytest.mark.parametrize(("limit", "status"), [(1024, Status.WARN), (65_536, Status.OK)])
def test_the_doctor_tells_the_limit(limit, status):
    finding = _open_files(limit)
    assert finding.status is status
    assert str(limit) in finding.detail
    assert bool(finding.remedy) is (status is Status.WARN)


COUNT_HEAPS = """
import ctypes, sys, threading
from core import process_setup
if sys.argv[1] == "small":
    assert process_setup.keep_heap_small()
c = ctypes.CDLL(None)
c.malloc.restype = ctypes.c_void_p
c.malloc.argtypes = [ctypes.c_size_t]
at_work = threading.Barrier(9)

def work():
    c.malloc(5000)
    at_work.wait()

for _ in range(8):
    threading.Thread(target=work).start()
at_work.wait()
c.fdopen.restype = ctypes.c_void_p
c.malloc_info.argtypes = [ctypes.c_int, ctypes.c_void_p]
c.fflush.argtypes = [ctypes.c_void_p]
out = c.fdopen(1, b"w")
c.malloc_info(0, out)
c.fflush(out)
"""


def heaps(how: str) -> int:
    done = subprocess.run(
        [sys.executable, "-c", COUNT_HEAPS, how], capture_output=True, text=True, check=True
    )
    return done.stdout.count("<heap nr=")


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")
def test_threads_share_two_heaps():
    assert heaps("small") <= 2 < heaps("as it is")


def test_without_glibc_nothing_changes(monkeypatch):
    monkeypatch.setattr(process_setup.ctypes, "CDLL", lambda _name: object())
    assert process_setup.keep_heap_small() is False
