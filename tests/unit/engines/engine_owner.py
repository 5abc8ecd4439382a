"""Another LMDyno process, for tests: starts the stand-in lane, tells its pid, and waits to be ended.

Arguments: the home folder, how long engines outlive it (`LMDYNO_END_ENGINES_AFTER`), then `--persistent` or
nothing, then options of the fake engine. It prints a line
when it is about to start the engine, reads a line, starts it, prints `PID OWNED`, and reads another line.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]

from engine_stand_ins import lane_in, rows, settings_in  # noqa: E402

from core.engines.manager import EngineManager  # noqa: E402


def say(line):
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main():
    folder, end_after, *options = sys.argv[1:]
    persistent = "--persistent" in options
    table = rows(*(option for option in options if option != "--persistent"))
    home = Path(folder)
    settings = settings_in(home, end_engines_after=end_after)
    manager = EngineManager(settings, [lane_in(home)], rows=table, persistent=persistent, grace_s=1.0)
    say("ready")
    sys.stdin.readline()
    manager.ensure("hf")
    say("started")
    status = manager.wait_until_healthy("hf", 30)
    say(f"{status.pid} {status.owned}")
    sys.stdin.readline()
    manager.close()


if __name__ == "__main__":
    main()
