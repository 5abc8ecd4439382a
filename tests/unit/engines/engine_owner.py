"""Another LMDyno process, for tests: starts the stand-in lane, tells its pid, and waits to be ended.

    python -m tests.unit.engines.engine_owner DESCRIPTOR HOME END_AFTER [OPTION …]

talks over that file descriptor, one end of a `multiprocessing.Pipe`.
"""

import sys
from multiprocessing.connection import Connection
from pathlib import Path

from core.engines.manager import EngineManager
from tests.unit.engines.engine_stand_ins import lane_in, rows, settings_in


def own(connection: Connection, home: Path, end_after: str, *options: str) -> None:
    """Runs in that process. `end_after` is how long engines outlive it (`LMDYNO_END_ENGINES_AFTER`).

    The options are `--persistent`, or those of the fake engine. It sends `ready`, awaits a message, begins to
    start the engine, sends `started`, then `PID OWNED` of a healthy engine, and awaits another message.
    """
    persistent = "--persistent" in options
    table = rows(*(option for option in options if option != "--persistent"))
    settings = settings_in(home, end_engines_after=end_after)
    manager = EngineManager(settings, [lane_in(home)], rows=table, persistent=persistent, grace_s=1.0)
    connection.send("ready")
    connection.recv()
    manager.ensure("hf")
    connection.send("started")
    status = manager.wait_until_healthy("hf", 30)
    connection.send(f"{status.pid} {status.owned}")
    connection.recv()
    manager.close()


if __name__ == "__main__":
    own(Connection(int(sys.argv[1])), Path(sys.argv[2]), *sys.argv[3:])
