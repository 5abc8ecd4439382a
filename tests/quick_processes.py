"""Processes that start at once: forks of one process that has imported what they run.

Each test process has one such process beside it, from its first use to its end.
"""

import sys
from multiprocessing.context import ForkServerContext, ForkServerProcess
from types import ModuleType


class _Process(ForkServerProcess):
    def start(self) -> None:
        """As usual, but whatever is this process's `__main__` isn't run in the new one.

        Streamlit's AppTest leaves the script there that it ran last.
        """
        main = sys.modules["__main__"]
        sys.modules["__main__"] = ModuleType("__main__")
        try:
            super().start()
        finally:
            sys.modules["__main__"] = main


class _Context(ForkServerContext):
    Process = _Process


quick = _Context()
quick.set_forkserver_preload(
    ["core.bench.run.load_process", "tests.unit.engines.engine_owner", "tests.unit.store.store_samples"]
)
