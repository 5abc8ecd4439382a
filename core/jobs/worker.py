"""The worker's end of a job: its arguments in, progress and the result out.

Runs in the job's own child process, perhaps in the Python of another environment, so only the standard
library, `core.errors` and `core.i18n` are imported. Started as `python -m MODULE FOLDER FD`: FD is a pipe to
the job's runner that takes one JSON message a line; what a worker prints is its log.
"""

import json
import os
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from core.errors import LMDynoError
from core.i18n import N_, as_json


class Report(Protocol):
    """Reports the current step and the share of the work that is done (0 to 1; None if unknown)."""

    def __call__(self, stage: str, progress: float | None = None) -> None: ...


def run(work: Callable[[Mapping[str, Any], Report], Mapping[str, Any]]) -> int:
    """Call `work` with the job's arguments and hand in its result; returns the exit code.

    An LMDynoError becomes the job's error. Any other exception is a defect and ends the process with its
    traceback. Once the runner was killed, each report raises an LMDynoError (`job-died`).
    """
    folder, fd = sys.argv[1:]
    arguments = json.loads((Path(folder) / "spec.json").read_bytes())["arguments"]
    pipe = os.fdopen(int(fd), "w", encoding="utf-8")

    def send(**message: object) -> None:
        try:
            pipe.write(f"{json.dumps(message)}\n")
            pipe.flush()
        except BrokenPipeError:
            raise LMDynoError(
                N_("The job's processes were killed, or the machine restarted."),
                hint=N_("Start the job again."),
                code="job-died",
            ) from None

    def report(stage: str, progress: float | None = None) -> None:
        send(stage=as_json(stage), progress=progress)

    # Whoever killed the runner left nobody to tell anything.
    with suppress(BrokenPipeError), pipe:
        try:
            send(result=dict(work(arguments, report)))
        except LMDynoError as exc:
            with suppress(LMDynoError):
                send(error={"code": exc.code, "message": as_json(exc.message), "hint": as_json(exc.hint)})
            return 1
    return 0
