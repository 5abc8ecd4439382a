"""The worker of a walk: `python -m core.walk.worker FOLDER FD`, started by `core.jobs`."""

import signal
import sys
from collections.abc import Mapping
from typing import Any

from core import logs
from core.jobs.worker import Report, run
from core.settings import load_settings
from core.walk.job import take_walk


def work(arguments: Mapping[str, Any], report: Report) -> Mapping[str, Any]:
    """Take every step; the walk is saved after each."""
    logs.configure()
    walk = take_walk(load_settings(), arguments["model"], arguments["id"], report)
    return {"walk": walk.id}


def main() -> int:
    # Ends the engines and keeps the steps on the way out; by default the signal ends the process at once.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    return run(work)


if __name__ == "__main__":
    sys.exit(main())
