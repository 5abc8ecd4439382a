"""Starts processes on a node that send a load test's requests from there.

The load test connects to them itself (`core.bench.run.load_ways`), so that nothing of a measurement passes
through Ray or the agent.
"""

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

from core.errors import EngineCrashed
from core.i18n import N_
from core.settings import PROJECT_ROOT

_PROGRAM = "from core.bench.run.load_process import listen; listen()"


def start_load_process(home: Path, address: str, secret: str) -> int:
    """The port on `address` where a new process waits for the one who knows the secret.

    Takes the seconds of its imports. It ends with its connection, or if nobody connects. Raises EngineCrashed
    if it ends before it listens.
    """
    process = subprocess.Popen(
        [sys.executable, "-c", _PROGRAM],
        cwd=PROJECT_ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "LMDYNO_HOME": str(home)},
    )
    assert process.stdin is not None
    assert process.stdout is not None
    threading.Thread(target=process.wait, name="load-process", daemon=True).start()
    told = {"home": str(home), "address": address, "secret": secret}
    try:
        process.stdin.write(json.dumps(told).encode() + b"\n")
        process.stdin.close()
    except BrokenPipeError:
        pass  # then it says no port either
    with process.stdout:
        line = process.stdout.readline()
    if not line.strip().isdigit():
        raise EngineCrashed(
            N_("A process of the load test ended before it was ready."),
            hint=N_("See the log of Ray's worker on the node."),
            code="load-process-ended",
        )
    return int(line)
