"""A recording: turns, load tests, quality runs, sessions and a walk of one machine, as one small file.

The file is JSON of the records themselves, compressed with xz, so that whoever has it can replay and show
everything without an engine. It holds no paths of the machine that made it, no names of people, and no voting
links. Of everything that is replayed, `origin` says where and when it was recorded.

A dashboard that only replays has a home that holds recordings and nothing else. It is a temporary folder with
a database of its own, made when the dashboard starts and gone with it, so that what is shown is the
recordings' and nobody's history is touched.
"""

import lzma
import re
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import cache, partial
from pathlib import Path

from core import __version__
from core.bench.results.result import summarise
from core.codec import decode, encode
from core.config import LaneRegistry
from core.domain.runs import BenchRecord, BenchRun, QualityRecord, QualityRun, RunState
from core.domain.sessions import SessionRecord, SessionState
from core.domain.specs import LaneSpec
from core.domain.turns import Machine, RequestPlan, TurnPlan, TurnRecord, utc_now
from core.domain.walk import WalkRun
from core.errors import ConfigError, InputError, StoreError
from core.i18n import N_, Text
from core.sessions.exports import portable as portable_session
from core.settings import PROJECT_ROOT, Settings
from core.store.history import History
from core.store.run_tables import Walks
from core.store.runs import BenchRuns, QualityRuns
from core.store.sessions import Sessions
from core.store.turns import Store
from core.walk import job

SCHEMA_VERSION = 1
SUFFIX = ".json.xz"
MAX_BYTES = 2**26
"""Of the JSON of a recording: a small file can hold endless zeros."""
_GPU_INDEX = re.compile(r"(?:cuda:|(?<=[\d]),\s*)(\d+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Recording:
    """The recorded turns and runs, each kind in the order in which it is shown."""

    title: str
    recorded_at: datetime = field(default_factory=utc_now)
    lmdyno: str
    machine: Machine | None = None
    turns: tuple[TurnRecord, ...] = ()
    runs: tuple[BenchRecord, ...] = ()
    quality: tuple[QualityRecord, ...] = ()
    sessions: tuple[SessionRecord, ...] = ()
    walk: WalkRun | None = None
    schema_version: int = SCHEMA_VERSION


def write(recording: Recording, file: Path, *, paths: Mapping[str, str]) -> int:
    """Write the file and return its size in bytes.

    `paths` says what each path of this machine is called in the file, such as `HOME`; longer ones first.
    """
    data = encode(portable(recording))
    for path, name in paths.items():
        data = data.replace(path.encode(), name.encode())
    decode(Recording, data)
    packed = lzma.compress(data, preset=9 | lzma.PRESET_EXTREME)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(packed)
    return len(packed)


def portable(recording: Recording) -> Recording:
    """The recording without who asked, stopped or voted."""
    turns = tuple(
        replace(
            turn,
            owner=None,
            requests=tuple(replace(request, stopped_by=None) for request in turn.requests),
        )
        for turn in recording.turns
    )
    sessions = tuple(portable_session(record, names=False) for record in recording.sessions)
    return replace(recording, turns=turns, sessions=sessions)


def read(file: Path) -> Recording:
    """The recording in a file; raises InputError (`bad-record`, `newer-schema`)."""
    not_one = N_("{file} is not a recording.", file=file.name)
    try:
        unpacker = lzma.LZMADecompressor()
        data = unpacker.decompress(file.read_bytes(), MAX_BYTES)
        complete = unpacker.eof
    except (OSError, lzma.LZMAError) as exc:
        raise InputError(
            not_one, hint=N_("The parser reports: {reason}", reason=exc), code="bad-record"
        ) from exc
    if not complete:
        raise InputError(not_one, hint=N_("It is incomplete or too large. Copy it again."), code="bad-record")
    version = decode(_Version, data, otherwise=not_one).schema_version
    if version > SCHEMA_VERSION:
        raise InputError(
            N_("A newer version of LMDyno made this recording."),
            hint=N_("Update LMDyno."),
            code="newer-schema",
        )
    return decode(Recording, data, otherwise=not_one)


@cache
def recordings_in(folder: Path) -> Mapping[str, Recording]:
    """The folder's recordings by name; read once a process. Raises InputError for a broken one."""
    return {file.name.removesuffix(SUFFIX): read(file) for file in sorted(folder.glob(f"*{SUFFIX}"))}


@dataclass(frozen=True, slots=True)
class _Version:
    schema_version: int


def device_name(machine: Machine | None, devices: Iterable[str | None] = ()) -> str | None:
    """Return what did the work, such as `2 × NVIDIA H200`: the GPUs that engines were on, or the CPU.

    `devices` are the engines' own, such as `cuda:0,1` or `cpu`; without any, all GPUs of the machine count.
    None where nothing is known.
    """
    if machine is None:
        return None
    known = [device for device in devices if device]
    used = {int(index) for device in known for index in _GPU_INDEX.findall(device)}
    if machine.gpus and (used or not known):
        # A GPU is described as "NVIDIA H200, 140.40 GiB".
        names = Counter(
            gpu.partition(",")[0] for index, gpu in enumerate(machine.gpus) if not used or index in used
        )
        return " + ".join(f"{count} × {name}" if count > 1 else name for name, count in names.items())
    return machine.cpu or machine.host


def origin(
    machine: Machine | None,
    at: datetime,
    *,
    here: Machine | None = None,
    devices: Iterable[str | None] = (),
) -> Text:
    """Such as `Recorded on NVIDIA H200, 2026-11-29`; of this machine (`here`) only the date is told."""
    date = f"{at:%Y-%m-%d}"
    device = device_name(machine, devices)
    if device is None or (here is not None and machine is not None and _is_same(machine, here)):
        return N_("Replay of a recording from {date}", date=date)
    return N_("Recorded on {device}, {date}", device=device, date=date)


def _is_same(machine: Machine, other: Machine) -> bool:
    """Whether both describe one machine, whatever was updated on it in between."""
    return (machine.host, machine.cpu, machine.gpus) == (other.host, other.cpu, other.gpus)


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
