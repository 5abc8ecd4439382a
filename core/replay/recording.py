"""A recording: turns, load tests, quality runs, sessions and a walk of one machine, as one small file.

The file is JSON of the records themselves, compressed with xz, so that whoever has it can replay and show
everything without an engine. It holds no paths of the machine that made it, no names of people, and no voting
links. Of everything that is replayed, `origin` says where and when it was recorded.
"""

import lzma
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import cache
from pathlib import Path

from core.codec import decode, encode
from core.domain.runs import BenchRecord, QualityRecord
from core.domain.sessions import SessionRecord
from core.domain.turns import Machine, TurnRecord, utc_now
from core.domain.walk import WalkRun
from core.errors import InputError
from core.i18n import N_, Text
from core.sessions.exports import portable as portable_session

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
