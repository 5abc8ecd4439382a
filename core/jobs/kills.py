"""Why a process got SIGKILL: the kernel counts those that it killed since memory had run out."""

from pathlib import Path

_CGROUP = Path("/proc/self/cgroup")
_CGROUPS = Path("/sys/fs/cgroup")
_WHOLE_MACHINE = Path("/proc/vmstat")


def out_of_memory_kills(
    *, cgroup: Path = _CGROUP, cgroups: Path = _CGROUPS, whole_machine: Path = _WHOLE_MACHINE
) -> int | None:
    """How many processes the kernel has killed for want of memory; None where it doesn't tell.

    Counted are those of this process's control group, which its children share; without one, all of the
    machine's.
    """
    try:
        path = cgroup.read_text().partition("0::/")[2].partition("\n")[0]
        count = _counter(cgroups / path / "memory.events")
    except OSError:
        count = None
    return _counter(whole_machine) if count is None else count


def _counter(file: Path) -> int | None:
    try:
        lines = file.read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        name, _, value = line.partition(" ")
        if name == "oom_kill":
            return int(value)
    return None
