"""Where a checkpoint made here comes from: `provenance.json` inside its folder. Standard library only."""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

PROVENANCE_FILE = "provenance.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Provenance:
    """How a W4A16 checkpoint was made."""

    tool: str
    source: str
    """The checkpoint it was made from."""
    source_config_sha256: str
    calibration: str
    """The name of the text or set; `none` without data."""
    calibration_sha256: str | None
    """Of a text that was here; None for a hub's set and without data."""
    calibration_file: str | None = None
    """The text's file beside this one, where the model wrote it itself."""
    samples: int
    """0 without data."""
    seqlen: int | None
    search_scale: bool
    batch_size: int
    rounding: str = "nearest"
    """`nearest` or `compensated`."""
    dtype: str
    bits: int
    group_size: int
    versions: dict[str, str]
    device: str
    """The GPU's name, or `cpu`."""
    started_at: str
    """ISO 8601, UTC."""
    duration_s: float
    source_bytes: int
    result_bytes: int

    def write(self, folder: Path) -> None:
        _write(folder, asdict(self))


def write_provenance(
    folder: Path,
    *,
    source: Mapping[str, object],
    changes: str,
    packages: Sequence[str],
    began_s: float,
) -> None:
    """Write where the folder's content comes from into `folder`.

    Args:
        source: what it was made from (names, sizes, checksums).
        changes: what was done to it, in words.
        packages: the libraries whose versions matter.
        began_s: `time.time()` at the start of the work.
    """
    now_s = time.time()
    note = {
        "schema_version": 1,
        "source": dict(source),
        "changes": changes,
        "versions": {name: _version(name) for name in packages},
        "made_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now_s)),
        "duration_s": round(now_s - began_s, 1),
    }
    _write(folder, note)


def read_provenance_note(folder: Path) -> dict[str, Any] | None:
    """The content of a folder's provenance, of whatever form; None if there is none or it can't be read."""
    try:
        note = json.loads((folder / PROVENANCE_FILE).read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return note if isinstance(note, dict) else None


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _write(folder: Path, content: Mapping[str, object]) -> None:
    text = json.dumps(content, indent=2, ensure_ascii=False)
    (folder / PROVENANCE_FILE).write_text(f"{text}\n", "utf-8")
