"""How the replicas of a lane are, by the file that their leader keeps beside the engine's log.

`core.engines.launch.serve_replicas` writes it. It is believed only while the leader runs.
"""

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from core.engines.registry import EngineEntry, EngineState

_MOST_BYTES = 2**16


@dataclass(frozen=True, slots=True, kw_only=True)
class Replica:
    """One of the servers behind a lane's address."""

    number: int
    """From 1 on."""
    state: EngineState
    since: datetime
    pid: int | None
    device: str | None
    """Such as `cuda:0`."""
    exit_code: int | None
    """How it ended, negative for a signal; None while it runs."""


def replica_log(log_file: Path, number: int) -> Path:
    """The log of one replica of the engine with this log."""
    return log_file.with_name(f"{log_file.stem}~{number}.log")


def replica_logs(entry: EngineEntry) -> tuple[Path, ...]:
    """The logs of all replicas; none for an engine without."""
    count = entry.lane.settings.replicas
    return (
        tuple(replica_log(Path(entry.log_file), number) for number in range(1, count + 1))
        if count > 1
        else ()
    )


def replicas_of(entry: EngineEntry) -> tuple[Replica, ...]:
    """The replicas of an engine that runs, as last told; none before the first word, or without any."""
    if entry.lane.settings.replicas == 1 or entry.process is None or not entry.alive:
        return ()
    log_file = Path(entry.log_file)
    try:
        with log_file.with_name(f"{log_file.stem}~replicas.json").open("rb") as file:
            told = json.loads(file.read(_MOST_BYTES))
        if told["leader"] != entry.process.pid:
            return ()  # left by an earlier start
        replicas = told["replicas"]
        return tuple(_replica(facts, entry.gpus, len(replicas)) for facts in replicas)
    except (OSError, ValueError, KeyError, TypeError):
        return ()


def _replica(facts: dict[str, Any], gpus: tuple[int, ...], count: int) -> Replica:
    number, size = facts["number"], len(gpus) // count
    mine = gpus[size * (number - 1) : size * number]
    return Replica(
        number=number,
        state=EngineState(facts["state"]),
        since=datetime.fromtimestamp(facts["since_s"], UTC),
        pid=facts["pid"],
        device=f"cuda:{','.join(map(str, mine))}" if mine else None,
        exit_code=facts["exit_code"],
    )
