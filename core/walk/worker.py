"""The worker of a walk: `python -m core.walk.worker FOLDER FD`, started by `core.jobs`.

On a node, the walk has a folder of its own in the node's home: its engines listen where nobody else reaches
them, so the node's agent must not take them for engines of its lanes.
"""

import json
import signal
import sys
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from core import process_setup
from core.codec import decode
from core.config import LaneRegistry
from core.jobs.worker import Report, run
from core.settings import Settings, load_settings
from core.walk.job import take_walk


def work(arguments: Mapping[str, Any], report: Report) -> Mapping[str, Any]:
    """Take every step; the walk is saved after each."""
    process_setup.configure_logs()
    settings, node = load_settings(), arguments.get("node")
    if node is None:
        walk = take_walk(settings, arguments["model"], arguments["id"], report)
    else:
        walk = take_walk(
            walk_settings(settings),
            arguments["model"],
            arguments["id"],
            report,
            node=node,
            lanes=decode(LaneRegistry, json.dumps(arguments["lanes"])),
        )
    return {"walk": walk.id}


def walk_settings(settings: Settings) -> Settings:
    """The settings of walks on a node with that home."""
    home = settings.home / "walk"
    return replace(
        settings,
        home=home,
        lanes_file=home / "lanes.toml",
        lanes_named=False,
        database_url=f"sqlite:///{home / 'lmdyno.db'}",
    )


def main() -> int:
    # Ends the engines and keeps the steps on the way out; by default the signal ends the process at once.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    return run(work)


if __name__ == "__main__":
    sys.exit(main())
