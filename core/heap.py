"""The C library's heap of processes that run for long.

glibc keeps a heap for each of many threads, and each keeps what was freed in it. A process whose threads come
and go, as those of a dashboard do, then grows without holding more.
"""

import ctypes

_TRIM_THRESHOLD, _ARENA_MAX = -1, -8
"""Parameters of glibc's `mallopt`, by their numbers in malloc.h."""
_HEAPS = 2
_KEPT_BYTES = 128 * 1024
"""Freed memory at the end of a heap that isn't given back."""


def keep_small() -> bool:
    """Have all threads share two heaps that give freed memory back; False, and no change, without glibc.

    Heaps that are there already stay, so call it early.
    """
    try:
        set_option = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    return bool(set_option(_ARENA_MAX, _HEAPS)) and bool(set_option(_TRIM_THRESHOLD, _KEPT_BYTES))
