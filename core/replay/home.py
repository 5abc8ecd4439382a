"""A home that holds recordings and nothing else, for a dashboard that only replays.

It is a temporary folder with a database of its own, made when the dashboard starts and gone with it, so that
what is shown is the recordings' and nobody's history is touched.
"""

import tempfile
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path

from core.bench.results.result import summarise
from core.config import LaneRegistry
from core.domain.sessions import SessionState
from core.domain.specs import LaneSpec
from core.domain.turns import RequestPlan, TurnPlan, TurnRecord
from core.errors import ConfigError, StoreError
from core.i18n import N_
from core.replay.recording import Recording, recordings_in
from core.settings import Settings
from core.store.history import History
from core.store.run_tables import Walks
from core.store.runs import BenchRuns, QualityRuns
from core.store.sessions import Sessions
from core.store.turns import Store


def recordings_of(settings: Settings) -> tuple[Recording, ...]:
    """Those in the folder, by name; raises ConfigError if there is none, InputError for a broken one."""
    recordings = recordings_in(settings.recordings_dir)
    if not recordings:
        raise ConfigError(
            N_("There is no recording in {folder}.", folder=settings.recordings_dir),
            hint=N_("Put files of `lmdyno record` there, or set LMDYNO_RECORDINGS to their folder."),
            code="no-recordings",
        )
    return tuple(recordings.values())


def temporary_home(settings: Settings, recordings: Iterable[Recording]) -> Settings:
    """Settings with a new home in which everything of the recordings is stored. Raises StoreError."""
    home = Path(tempfile.mkdtemp(prefix="lmdyno-replay-"))
    moved = replace(settings, home=home, database_url=f"sqlite:///{home / 'lmdyno.db'}")
    for recording in recordings:
        fill(moved, recording)
    return moved


def fill(settings: Settings, recording: Recording) -> None:
    """Store everything of the recording; what is there already stays as it is."""
    url = settings.database_url
    with closing(Store(url)) as store:
        for turn in recording.turns:
            store.save_turn(_plan_of(turn), turn.machine)
            for request in turn.requests:
                store.save_request(request)
    with closing(BenchRuns(url)) as runs, closing(History(url)) as history:
        for record in recording.runs:
            if _is_new(partial(runs.add, record)):
                (entry,) = history.find([record.run.id])
                history.keep_summary(record.run.id, entry.updated_at, summarise(record))
    with closing(QualityRuns(url)) as quality:
        for compared in recording.quality:
            _is_new(partial(quality.add, compared))
    with closing(Sessions(url)) as sessions:
        for voted in recording.sessions:
            closed = replace(voted.session, state=SessionState.CLOSED, imported=True)
            _is_new(partial(sessions.add, replace(voted, session=closed)))
    if recording.walk is not None:
        with closing(Walks(url)) as walks:
            walks.save(recording.walk)


def lanes_of(recordings: Sequence[Recording]) -> LaneRegistry:
    """The lanes that took part, each name once, as the dashboard's own."""
    lanes: dict[str, LaneSpec] = {}
    for recording in recordings:
        for turn in recording.turns:
            for request in turn.requests:
                lanes.setdefault(request.lane.name, request.lane)
        for record in recording.runs:
            for facts in record.run.lanes:
                lanes.setdefault(facts.lane.name, facts.lane)
        for compared in recording.quality:
            for lane_facts in compared.run.lanes:
                lanes.setdefault(lane_facts.lane.name, lane_facts.lane)
        for voted in recording.sessions:
            for lane in voted.session.plan.lanes:
                lanes.setdefault(lane.name, lane)
    models = {lane.model.name: lane.model for lane in lanes.values() if lane.model}
    return LaneRegistry(models=tuple(models.values()), lanes=tuple(lanes.values()), source=None)


def _plan_of(turn: TurnRecord) -> TurnPlan:
    return TurnPlan(
        id=turn.id,
        conversation_id=turn.conversation_id,
        created_at=turn.created_at,
        prompt=turn.prompt,
        system_prompt=turn.system_prompt,
        mode=turn.mode,
        sampling=turn.sampling,
        images=turn.images,
        replaces=turn.replaces,
        owner=turn.owner,
        requests=tuple(
            RequestPlan(id=request.id, lane=request.lane, messages=request.messages)
            for request in turn.requests
        ),
    )


def _is_new(add: Callable[[], object]) -> bool:
    """Add it unless it is there."""
    try:
        add()
    except StoreError as error:
        if error.code not in ("run-exists", "session-exists"):
            raise
        return False
    return True
