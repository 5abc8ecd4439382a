"""Looks at the jobs that go on, so that one whose processes were killed is set in order though no page shows
it."""

import logging
import threading

from core.errors import InputError
from core.jobs.registry import Jobs
from core.settings import Settings

log = logging.getLogger(__name__)

_INTERVAL_S = 2.0


class JobsWatch:
    """A thread from `start` to `close`; the dashboard has one."""

    def __init__(self, settings: Settings) -> None:
        self._jobs = Jobs(settings)
        self._dir = settings.home / "jobs"
        self._closing = threading.Event()
        self._ended: set[str] = set()
        """Jobs that need no further look."""

    def start(self) -> None:
        threading.Thread(target=self._loop, name="jobs-watch", daemon=True).start()

    def close(self) -> None:
        self._closing.set()

    def look(self) -> None:
        """Look once; cheap for jobs that were seen to have ended."""
        for path in self._dir.glob("*/spec.json"):
            job_id = path.parent.name
            if job_id in self._ended:
                continue
            try:
                has_ended = self._jobs.status(job_id).state.ended
            except (InputError, OSError):
                has_ended = True  # no job of this version
            if has_ended:
                self._ended.add(job_id)

    def _loop(self) -> None:
        while not self._closing.wait(_INTERVAL_S):
            try:
                self.look()
            except Exception:
                log.exception("jobs not looked at")
