"""Host memory and CPU time of an engine's process tree, read sparingly.

Listing the descendants of a process means looking at every process of the machine, so that is done often only
while an engine is young: its children appear while it loads. Not thread-safe: the sampler's thread owns it.
"""

from collections.abc import Callable

import psutil

from core.telemetry.processes import tree

_NS = 1e-9
_READ_INTERVAL_S = 0.5
"""CPU time is counted in ticks of 10 ms; over a shorter interval the share would be mostly rounding."""
_YOUNG_S = 120.0
_TREE_INTERVAL_YOUNG_S = 2.0
_TREE_INTERVAL_S = 15.0


class EngineLoad:
    """The process tree below `pid`, followed over time."""

    def __init__(self, pid: int, *, list_tree: Callable[[int], tuple[int, ...]] = tree) -> None:
        self.pids: frozenset[int] = frozenset()
        self.resident_bytes: int | None = None
        self.cpu_ratio: float | None = None
        """CPU time by wall time since the reading before; 1.0 is one whole core. None at first."""
        self._pid = pid
        self._list_tree = list_tree
        self._processes: dict[int, psutil.Process] = {}
        self._cpu_s: dict[int, float] = {}
        self._first_ns: int | None = None
        self._listed_ns = 0
        self._read_ns = 0

    def update(self, now_ns: int) -> None:
        """Renew what is due at `now_ns` (perf_counter_ns); the figures are then up to half a second old."""
        if self._first_ns is None:
            self._first_ns = now_ns
            self._list_processes(now_ns)
            self._read(now_ns)
            return
        is_young = (now_ns - self._first_ns) * _NS < _YOUNG_S
        interval_s = _TREE_INTERVAL_YOUNG_S if is_young else _TREE_INTERVAL_S
        if (now_ns - self._listed_ns) * _NS >= interval_s:
            self._list_processes(now_ns)
        if (now_ns - self._read_ns) * _NS >= _READ_INTERVAL_S:
            self._read(now_ns)

    def _list_processes(self, now_ns: int) -> None:
        self._listed_ns = now_ns
        self.pids = frozenset(self._list_tree(self._pid))
        known = {pid: process for pid, process in self._processes.items() if pid in self.pids}
        for pid in self.pids - known.keys():
            try:
                known[pid] = psutil.Process(pid)
            except psutil.Error:
                continue
        self._processes = known

    def _read(self, now_ns: int) -> None:
        resident_bytes = 0
        cpu_s: dict[int, float] = {}
        for pid, process in self._processes.items():
            try:
                with process.oneshot():
                    times = process.cpu_times()
                    resident_bytes += process.memory_info().rss
            except psutil.Error:
                continue
            cpu_s[pid] = times.user + times.system
        self.resident_bytes = resident_bytes if cpu_s else None
        self.cpu_ratio = self._cpu_ratio(cpu_s, now_ns)
        self._cpu_s, self._read_ns = cpu_s, now_ns

    def _cpu_ratio(self, cpu_s: dict[int, float], now_ns: int) -> float | None:
        """Over the processes that were there both times: a new one brings no time of its own to compare."""
        both = cpu_s.keys() & self._cpu_s.keys()
        elapsed_s = (now_ns - self._read_ns) * _NS
        if not both or elapsed_s <= 0:
            return None
        return max(0.0, sum(cpu_s[pid] - self._cpu_s[pid] for pid in both)) / elapsed_s
