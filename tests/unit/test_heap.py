"""The heaps that a process with many threads makes."""

import platform
import subprocess
import sys

import pytest

from core import heap

COUNT_HEAPS = """
import ctypes, sys, threading
from core import heap
if sys.argv[1] == "small":
    assert heap.keep_small()
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
    monkeypatch.setattr(heap.ctypes, "CDLL", lambda _name: object())
    assert heap.keep_small() is False
