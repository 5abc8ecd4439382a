"""Takes the attempts of one kind in a process of its own, so that none holds up those of others.

The process prints a line of JSON for each attempt. If none comes for a while, it is ended with all that it
has started, that attempt counts as an exception, and another process goes on with the next one. All of them
keep their files below one folder, which says which processes are theirs, whoever their parents are.
"""

import json
import logging
import os
import queue
import shutil
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks import chaos_inputs, chaos_kills, chaos_markdown  # noqa: E402
from benchmarks.chaos_stand import started_in  # noqa: E402

KILL_BOUND_S = 240.0
"""More than the waits within one kill take together before they give up by themselves."""
INPUT_BOUND_S = 60.0
_MOST_ENDED = 5
"""A kind of which so many attempts took its process with them is given up."""
_TOLD = 300


def end_all(folder: Path) -> None:
    """End every process that was started for this folder, and those that they start meanwhile."""
    for _ in range(20):
        processes = started_in(folder)
        if not processes:
            return
        for process in processes:
            with suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(processes, 2)


def attempts(kind: str, count: int, seed: int, folder: Path) -> Iterator[dict[str, Any]]:
    """What came of each attempt, or of some together, in the fields of an `Outcome`."""
    bound_s = KILL_BOUND_S if kind in chaos_kills.SHARES else INPUT_BOUND_S
    first = ended = 0
    while first < count and ended < _MOST_ENDED:
        with _process(kind, first, count, seed, folder) as (process, lines):
            while True:
                try:
                    line = lines.get(timeout=bound_s)
                except queue.Empty:
                    problem = f"took more than {bound_s:.0f} s and was ended"
                    break
                if line is None:
                    ended_well = process.wait() == 0
                    problem = None if ended_well else f"ended with {process.returncode}: {_said(folder)}"
                    break
                told = json.loads(line)
                first = told.pop("next")
                yield told
        if problem is None:
            return
        first, ended = first + 1, ended + 1
        yield {"exceptions": [f"{kind} {first - 1} {problem}"]}
    if first < count:
        yield {"exceptions": [f"{kind} given up after {first} of {count}"]}


@contextmanager
def _process(
    kind: str, first: int, count: int, seed: int, folder: Path
) -> Iterator[tuple["subprocess.Popen[str]", "queue.Queue[str | None]"]]:
    lines: queue.Queue[str | None] = queue.Queue()
    with (folder / "errors").open("w") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.chaos_bounded", kind, str(first), str(count), str(seed)],
            cwd=ROOT,
            env={**os.environ, "TMPDIR": str(folder)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            start_new_session=True,  # Ctrl-C is for the one that ends all others
        )

    def read() -> None:
        assert process.stdout is not None
        for line in process.stdout:
            lines.put(line)
        lines.put(None)

    threading.Thread(target=read, daemon=True).start()
    try:
        yield process, lines
    finally:
        end_all(folder)
        process.wait()


def _said(folder: Path) -> str:
    return (folder / "errors").read_text("utf-8", "replace")[-_TOLD:].strip()


def _end_with_the_owner() -> None:
    """Leave nothing behind if the process that reads our lines is gone."""
    folder = Path(os.environ["TMPDIR"])
    sys.stdin.read()
    end_all(folder)
    shutil.rmtree(folder, ignore_errors=True)
    os._exit(1)


def main() -> None:
    kind, first, count, seed = sys.argv[1], *map(int, sys.argv[2:5])
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    threading.Thread(target=_end_with_the_owner, daemon=True).start()
    numbers = range(first, count)
    if kind == "Markdown":
        taken = chaos_markdown.attempts(numbers, seed)
    elif kind in chaos_kills.SHARES:
        taken = chaos_kills.attempts(kind, numbers, seed)
    else:
        taken = chaos_inputs.attempts(kind, numbers, seed)
    for number, outcome in taken:
        told = {name: value for name, value in vars(outcome).items() if value}
        sys.stdout.write(json.dumps(told | {"next": number + 1}) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
