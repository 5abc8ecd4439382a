"""A worker whose arguments say how it behaves."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from core.errors import InputError, LMDynoError
from core.jobs.worker import Report, run


def work(arguments: Mapping[str, Any], report: Report) -> Mapping[str, Any]:
    if name := arguments.get("append_to"):
        with Path(name).open("a") as file:
            file.write(f"start {arguments['word']}\n")
    if scratch := arguments.get("scratch"):
        Path(scratch).mkdir(parents=True)
        (Path(scratch) / "half").write_text("x")
    if arguments.get("ignores_sigterm"):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if arguments.get("has_child"):
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
        report(f"child {child.pid}", 0.1)
    report("counting", arguments.get("progress", 0.5))
    sys.stdout.write("a line for the log\n")
    go_on = arguments.get("until_there")
    while go_on and not Path(go_on).exists():
        time.sleep(0.02)
    if arguments.get("reports_after"):
        try:
            report("after", 0.6)
        except LMDynoError as error:
            Path(arguments["words"]).write_text(error.code)
            raise
    match arguments.get("ends", "well"):
        case "input-error":
            raise InputError("Too little text", hint="Give more.", code="too-little")
        case "defect":
            raise ZeroDivisionError("by hand")
        case "killed":
            os.kill(os.getpid(), signal.SIGKILL)
    if name:
        with Path(name).open("a") as file:
            file.write(f"end {arguments['word']}\n")
    return {"answer": 42}


if __name__ == "__main__":
    sys.exit(run(work))
