"""Processes of this machine, seen through psutil: which run, what they use, how to end them.

A pid alone names nobody: numbers are used again. A process is meant by its pid together with the time it was
created, and every function that ends one checks both. All functions are thread-safe; an `EngineLoad` belongs
to one thread.
"""

import os
import signal
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import psutil

_WORKING_CORES = 0.08
"""CPU time by wall time from which a process is at work: more than the clock's ticks alone make."""
_CLOCK_STEP_S = 2.0
"""Creation times count from the boot time, which moves a little when the clock is set."""
_NS = 1e-9
_READ_INTERVAL_S = 0.5
"""CPU time is counted in ticks of 10 ms; over a shorter interval the share would be mostly rounding."""
_YOUNG_S = 120.0
_TREE_INTERVAL_YOUNG_S = 2.0
_TREE_INTERVAL_S = 15.0


@dataclass(frozen=True, slots=True)
class ProcessId:
    """A process that can't be mistaken for a later one with the same number."""

    pid: int
    created_s: float
    """Seconds since the epoch."""

    @property
    def alive(self) -> bool:
        return is_alive(self.pid, self.created_s)


def process_created_s(pid: int) -> float | None:
    """Return when the process was created, in seconds since the epoch; None if there is none."""
    try:
        return psutil.Process(pid).create_time()
    except psutil.Error:
        return None


def is_alive(pid: int, created_s: float) -> bool:
    """Whether that very process still runs. A zombie is dead."""
    try:
        process = psutil.Process(pid)
        if abs(process.create_time() - created_s) > _CLOCK_STEP_S:
            return False
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def identify(pid: int) -> ProcessId | None:
    """The process that has this number now; None if none has."""
    created_s = process_created_s(pid)
    return None if created_s is None else ProcessId(pid, created_s)


def this_process() -> ProcessId:
    pid = os.getpid()
    return ProcessId(pid, psutil.Process(pid).create_time())


def tree(pid: int) -> tuple[int, ...]:
    """The process and all its descendants; empty if it is gone."""
    try:
        process = psutil.Process(pid)
        return (pid, *(child.pid for child in process.children(recursive=True)))
    except psutil.Error:
        return ()


def is_computing(pid: int, *, look_s: float = 0.25) -> bool:
    """Whether the process or one of its descendants is at work; looks for up to twice `look_s`.

    A server that only waits takes less than a hundredth of a core. On a machine where others take nearly all
    of it, a thread that wants to run shows what the little CPU time doesn't.
    """
    for _ in range(2):
        used_s, ready = _cpu_s(pid), _has_ready_thread(pid)
        time.sleep(look_s)
        if _cpu_s(pid) - used_s > _WORKING_CORES * look_s or (ready and _has_ready_thread(pid)):
            return True
    return False


def _cpu_s(pid: int) -> float:
    total_s = 0.0
    for each in tree(pid):
        try:
            times = psutil.Process(each).cpu_times()
        except psutil.Error:
            continue
        total_s += times.user + times.system
    return total_s


def _has_ready_thread(pid: int) -> bool:
    """Whether a thread of the tree runs or waits for a core; False where the system doesn't tell."""
    for member in tree(pid):
        for path in Path(f"/proc/{member}/task").glob("*/stat"):
            try:
                state = path.read_text().rpartition(")")[2].split()[0]
            except (OSError, IndexError):
                continue
            if state == "R":
                return True
    return False


def resident_bytes(pids: Iterable[int]) -> int | None:
    """Resident memory of these processes together; None if none of them can be read.

    Pages that they share are counted once for each.
    """
    sizes = [size for pid in pids if (size := _resident_bytes(pid)) is not None]
    return sum(sizes) if sizes else None


def _resident_bytes(pid: int) -> int | None:
    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.Error:
        return None


def with_environment(variable: str, value: str) -> tuple[ProcessId, ...]:
    """Every process of this user that was started with that environment variable, zombies left out.

    It finds the children of a dead process too, in whatever session they are.
    """
    processes = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(variable) == value:
                processes.append(ProcessId(process.pid, process.create_time()))
        except psutil.Error:
            continue  # gone meanwhile, a zombie, or somebody else's
    return tuple(processes)


def listens_on(pids: Iterable[int], port: int) -> bool:
    """Whether one of these processes accepts TCP connections on the port."""
    return any(_listens_on(pid, port) for pid in pids)


def _listens_on(pid: int, port: int) -> bool:
    try:
        connections = psutil.Process(pid).net_connections(kind="tcp")
    except psutil.Error:
        return False
    return any(c.status == psutil.CONN_LISTEN and c.laddr.port == port for c in connections)


def send_signal(process: ProcessId, number: signal.Signals) -> None:
    """Signal that very process; nothing happens if it is gone."""
    if process.alive:
        try:
            os.kill(process.pid, number)
        except ProcessLookupError:
            return


def send_signal_to_group(leader: ProcessId, number: signal.Signals) -> None:
    """Signal the process group that `leader` leads; nothing happens if the leader is gone."""
    if leader.alive:
        try:
            os.killpg(leader.pid, number)
        except ProcessLookupError:
            return


def group_of(pid: int) -> int | None:
    """The id of the process group that it belongs to; None if it is gone."""
    try:
        return os.getpgid(pid)
    except ProcessLookupError:
        return None


class EngineLoad:
    """Host memory and CPU time of the process tree below `pid`, read sparingly.

    Listing the descendants of a process means looking at every process of the machine, so that is done often
    only while an engine is young: its children appear while it loads. Not thread-safe.
    """

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
