"""A job's worker that does what its arguments say: steps, then an end."""

import json
import sys
import time

from core.errors import LMDynoError
from core.files import write_atomically
from core.jobs.worker import run
from core.settings import load_settings


def work(arguments, report):
    steps = arguments["steps"]
    file = load_settings().home / "steps" / f"{arguments['name']}.json"
    for step in range(1, steps + 1):
        report(f"step {step}", step / steps)
        write_atomically(file, json.dumps({"steps": step}).encode())
        time.sleep(arguments.get("step_s", 0.0))
    if arguments.get("fails"):
        raise LMDynoError("It failed.", hint="Do better.", code="scripted")
    return {"steps": steps}


if __name__ == "__main__":
    sys.exit(run(work))
