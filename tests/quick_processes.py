"""Processes that start at once: forks of one process that has imported what they run.

Each test process has one such process beside it, from its first use to its end.
"""

import multiprocessing

quick = multiprocessing.get_context("forkserver")
quick.set_forkserver_preload(
    ["core.bench.run.load_process", "tests.unit.engines.engine_owner", "tests.unit.store.store_samples"]
)
