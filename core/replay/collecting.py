"""Collect stored entries into a recording."""

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from core import __version__
from core.codec import decode
from core.domain.runs import BenchRecord, BenchRun, QualityRecord, QualityRun, RunState
from core.domain.sessions import SessionRecord
from core.domain.turns import TurnRecord
from core.domain.walk import WalkRun
from core.errors import InputError, StoreError
from core.i18n import N_
from core.replay.recording import Recording
from core.settings import PROJECT_ROOT, Settings
from core.store.runs import BenchRuns, QualityRuns
from core.store.sessions import Sessions
from core.store.turns import Store
from core.walk import job


def collect(settings: Settings, ids: Sequence[str], *, walk: str | None = None, title: str = "") -> Recording:
    """The recording of these turns, conversations, runs and sessions, each kind in the order given.

    `walk` is a walk's id, or a file written by `lmdyno walk --json`. Raises InputError for an unknown id, for
    an entry that isn't finished, and for a file that holds no walk; StoreError.
    """
    turns: list[TurnRecord] = []
    runs: list[BenchRecord] = []
    quality: list[QualityRecord] = []
    sessions: list[SessionRecord] = []
    with (
        closing(Store(settings.database_url)) as turn_store,
        closing(BenchRuns(settings.database_url)) as bench_store,
        closing(QualityRuns(settings.database_url)) as quality_store,
        closing(Sessions(settings.database_url)) as session_store,
    ):
        for entry_id in dict.fromkeys(ids):
            if turn := turn_store.turn(entry_id):
                turns.append(turn)
            elif conversation := turn_store.conversation(entry_id):
                turns += conversation
            elif bench_store.run(entry_id):
                runs.append(bench_store.record(entry_id))
            elif quality_store.run(entry_id):
                quality.append(quality_store.record(entry_id))
            else:
                try:
                    sessions.append(session_store.record(entry_id))
                except StoreError as error:
                    if error.code != "no-such-session":
                        raise
                    raise InputError(
                        N_("There is no run {id}.", id=entry_id),
                        hint=N_("To list all runs, run `lmdyno runs list`."),
                    ) from error
    stored_runs: list[BenchRun | QualityRun] = [
        *(record.run for record in runs),
        *(record.run for record in quality),
    ]
    unfinished = [turn.id for turn in turns if not turn.done]
    unfinished += [run.id for run in stored_runs if run.state is RunState.RUNNING]
    if unfinished:
        raise InputError(
            N_("{id} isn't finished.", id=unfinished[0]), hint=N_("Wait for it to finish, then try again.")
        )
    taken = _walk(settings, walk) if walk else None
    machines = [
        *(turn.machine for turn in turns),
        *(run.machine for run in stored_runs),
        taken.machine if taken else None,
    ]
    return Recording(
        title=title,
        lmdyno=__version__,
        machine=next((machine for machine in machines if machine), None),
        turns=tuple(turns),
        runs=tuple(runs),
        quality=tuple(quality),
        sessions=tuple(sessions),
        walk=taken,
    )


def paths_of(settings: Settings) -> dict[str, str]:
    """Return what the machine's own paths are called in a recording; longer ones first."""
    return {str(settings.home): "HOME", str(PROJECT_ROOT): "LMDYNO"}


def _walk(settings: Settings, walk: str) -> WalkRun:
    file = Path(walk).expanduser()
    if file.is_file():
        return decode(WalkRun, file.read_bytes(), otherwise=N_("{file} is not a walk.", file=file.name))
    taken = job.load(settings, walk)
    if taken is None:
        raise InputError(
            N_("There is no walk {id}.", id=walk),
            hint=N_("Give the ID that `lmdyno walk` printed, or the file that it wrote with --json."),
            code="no-such-walk",
        )
    return taken
