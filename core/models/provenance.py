"""Where a quantised checkpoint comes from: `provenance.json` inside its folder. Standard library only."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

FILE_NAME = "provenance.json"


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
        text = json.dumps(asdict(self), indent=2, ensure_ascii=False)
        (folder / FILE_NAME).write_text(f"{text}\n", "utf-8")
