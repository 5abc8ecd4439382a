"""The limit of open files: raised where that is allowed, told where it is low."""

import errno
import resource
import subprocess
import sys

import pytest

from core import open_files
from core.doctor.findings import Status
from core.doctor.machine_checks import _open_files

RAISE = """
import resource
from core import open_files
resource.setrlimit(resource.RLIMIT_NOFILE, ({soft}, {hard}))
open_files.allow_many()
print(*resource.getrlimit(resource.RLIMIT_NOFILE))
"""


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
    assert open_files.allowed() == reached


def test_a_refusal_is_no_failure(monkeypatch):
    def refuse(_what, _limits):
        raise ValueError("not allowed to raise maximum limit")

    monkeypatch.setattr(resource, "getrlimit", lambda _what: (256, resource.RLIM_INFINITY))
    monkeypatch.setattr(resource, "setrlimit", refuse)
    open_files.allow_many()


def test_running_out_is_explained_and_other_errors_are_not():
    error = open_files.explained(OSError(errno.EMFILE, "Too many open files"))
    assert error.code == "too-many-open-files"
    assert str(open_files.allowed()) in error.message
    assert open_files.explained(OSError(errno.EACCES, "Permission denied")) is None


@pytest.mark.parametrize(("limit", "status"), [(1024, Status.WARN), (65_536, Status.OK)])
def test_the_doctor_tells_the_limit(limit, status):
    finding = _open_files(limit)
    assert finding.status is status
    assert str(limit) in finding.detail
    assert bool(finding.remedy) is (status is Status.WARN)
