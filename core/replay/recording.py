"""A recording: turns, load tests, quality runs, sessions and a walk of one machine, as one small file.

The file is JSON of the records themselves, compressed with xz, so that whoever has it can replay and show
everything without an engine. It holds no paths of the machine that made it, no names of people, and no
voting links.
"""

import lzma
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import cache
from pathlib import Path

from core.codec import decode, encode
from core.domain.bench import BenchRecord
from core.domain.quality import QualityRecord
from core.domain.sessions import SessionRecord
from core.domain.turns import Machine, TurnRecord, utc_now
from core.domain.walk import WalkRun
from core.errors import InputError
from core.i18n import N_
from core.sessions.exports import portable as portable_session

SCHEMA_VERSION = 1
SUFFIX = ".json.xz"
MAX_BYTES = 2**26
"""Of the JSON of a recording: a small file can hold endless zeros."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recording:
    """What was recorded, each part in the order in which it is shown."""

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
