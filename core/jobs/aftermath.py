"""Ends the stored run of a process that couldn't do it itself: `python -m core.jobs.aftermath RUN`.

A worker that was killed leaves its run in the store as one that goes on. Whoever finds the job dead ends the
run, with the reason: the job's runner, through this process, since it loads no database library itself, or
whoever looks at a job whose runner was killed too. A command that measures without a job has this process
beside it. The reason comes through stdin, as JSON, and counts when stdin ends.
"""

import logging
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress

from core import process_setup
from core.codec import decode, encode
from core.domain.turns import ErrorInfo
from core.errors import StoreError
from core.settings import PROJECT_ROOT, load_settings

log = logging.getLogger(__name__)

_PATIENCE_S = 20.0
"""For the process; a run that could not be ended counts as interrupted a minute after its last sign."""


def end_run(database_url: str, run_id: str, error: ErrorInfo | None) -> None:
    """End the run with that id, if it goes on; None is no error but a person's wish. Never raises."""
    # SQLAlchemy takes its time; most who look at jobs never need it.
    from core.store.runs import BenchRuns, QualityRuns

    for runs in (BenchRuns(database_url), QualityRuns(database_url)):
        try:
            with closing(runs):
                runs.end_lost(run_id, error)
        except StoreError as exc:
            log.warning("lost run not ended id=%s code=%s", run_id, exc.code)


def end_run_in_process(run_id: str, error: ErrorInfo | None, environment: Mapping[str, str]) -> None:
    """The same in a process of its own, with the settings of that environment."""
    try:
        subprocess.run(
            [sys.executable, "-m", "core.jobs.aftermath", run_id],
            cwd=PROJECT_ROOT,
            env=environment,
            input=encode(error),
            timeout=_PATIENCE_S,
            check=True,
        )
    except (OSError, subprocess.SubprocessError) as exc:
        log.warning("lost run not ended id=%s reason=%s", run_id, exc)


@contextmanager
def ended_if_killed(run_id: str, error: ErrorInfo) -> Iterator[None]:
    """Within this a run is ended in the store, with the error, as soon as this process is killed."""
    process = subprocess.Popen(
        [sys.executable, "-m", "core.jobs.aftermath", run_id],
        cwd=PROJECT_ROOT,
        stdin=subprocess.PIPE,
        # Ctrl-C in the terminal is for this process alone.
        start_new_session=True,
    )
    assert process.stdin is not None
    try:
        with suppress(BrokenPipeError):  # it ended at once; the run counts as interrupted a minute later
            process.stdin.write(encode(error))
            process.stdin.flush()
        yield
    finally:
        process.kill()
        process.wait()
        process.stdin.close()


def main() -> None:
    process_setup.configure_logs()
    told = sys.stdin.buffer.read()
    error = None if told == encode(None) else decode(ErrorInfo, told)
    end_run(load_settings().database_url, sys.argv[1], error)


if __name__ == "__main__":
    main()
