"""LMDyno's settings, read once from the environment.

| variable | meaning | default |
|---|---|---|
| `LMDYNO_HOME` | models, logs, database, state | `.lmdyno/` beside `streamlit_app.py` |
| `LMDYNO_DATABASE_URL` | SQLAlchemy URL of the store | SQLite in the home folder |
| `LMDYNO_LANES` | the lanes file | `lanes.toml` beside `streamlit_app.py` |
| `STREAMLIT_SECRETS_FILES` | Streamlit's secrets: login, keys of endpoints | `.streamlit/secrets.toml` |
| `LMDYNO_OPEN_TO_ALL` | role of everybody without a login: `viewer`, `operator` | none, but on loopback |
| `LMDYNO_END_ENGINES_AFTER` | seconds that engines outlive a killed dashboard, or `never` | 60 |
| `LMDYNO_MODE` | `replay`: recordings instead of engines, and nothing can be changed | `live` |
| `LMDYNO_RECORDINGS` | the folder of recordings that mode `replay` shows | those that come with LMDyno |
| `LMDYNO_DEMO_GGUF` | the demo weights' GGUF file, if it is there already | – |
"""

import math
import os
import tomllib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from core.errors import ConfigError
from core.i18n import N_

PROJECT_ROOT = Path(__file__).resolve().parents[1]


class Mode(StrEnum):
    """The purpose of the dashboard."""

    LIVE = "live"
    REPLAY = "replay"
    """Shows recordings; starts no engine and changes nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Paths and addresses of one LMDyno home. Nothing is created by reading it."""

    home: Path
    lanes_file: Path
    database_url: str = field(repr=False)
    secrets_file: Path = PROJECT_ROOT / ".streamlit" / "secrets.toml"
    demo_gguf: Path | None = None
    open_to_all: str = ""
    """The role of everybody where there is no login; "" is none but this machine's own visitors."""
    end_engines_after: str = "60"
    """As the variable has it; `end_engines_after_s` is what it means."""
    mode: Mode = Mode.LIVE
    recordings_dir: Path = PROJECT_ROOT / "assets" / "recording"
    lanes_named: bool = False
    """Somebody named the lanes file, so it has to be there; without it the machine's own lanes will do."""

    @property
    def models_dir(self) -> Path:
        return self.home / "models"

    @property
    def logs_dir(self) -> Path:
        return self.home / "logs"

    @property
    def images_dir(self) -> Path:
        return self.home / "images"

    @property
    def locks_dir(self) -> Path:
        return self.home / "locks"

    @property
    def engines_file(self) -> Path:
        return self.home / "engines.json"

    @property
    def end_engines_after_s(self) -> float | None:
        """How long an engine may outlive the process that it belongs to; None is for good.

        Raises ConfigError for what is neither seconds nor "never".
        """
        if self.end_engines_after == "never":
            return None
        with suppress(ValueError):
            seconds = float(self.end_engines_after)
            if math.isfinite(seconds) and seconds > 0:
                return seconds
        raise ConfigError(
            N_('LMDYNO_END_ENGINES_AFTER is "{value}".', value=self.end_engines_after),
            hint=N_('Set it to a number of seconds, or to "never".'),
        )

    def secrets(self) -> Mapping[str, Any]:
        """Return what Streamlit's secrets file holds; empty without one. Its values must never be shown or
        logged.

        Raises ConfigError for a file that can't be read or is not TOML.
        """
        try:
            return tomllib.loads(self.secrets_file.read_text("utf-8"))
        except FileNotFoundError:
            return {}
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as exc:
            raise ConfigError(
                N_("{file} is not valid TOML.", file=self.secrets_file.name),
                hint=N_("The parser reports: {reason}", reason=exc),
            ) from None


def load_settings(environ: Mapping[str, str] = os.environ) -> Settings:
    """Raises ConfigError for a mode that there isn't."""
    home = Path(environ.get("LMDYNO_HOME") or PROJECT_ROOT / ".lmdyno").expanduser().resolve()
    _adopt_old_folders(home)
    demo_gguf = environ.get("LMDYNO_DEMO_GGUF")
    recordings = environ.get("LMDYNO_RECORDINGS") or PROJECT_ROOT / "assets" / "recording"
    secrets_file = environ.get("STREAMLIT_SECRETS_FILES") or PROJECT_ROOT / ".streamlit" / "secrets.toml"
    return Settings(
        home=home,
        lanes_file=Path(environ.get("LMDYNO_LANES") or PROJECT_ROOT / "lanes.toml").expanduser(),
        database_url=environ.get("LMDYNO_DATABASE_URL") or f"sqlite:///{home / 'lmdyno.db'}",
        secrets_file=Path(secrets_file).expanduser(),
        demo_gguf=Path(demo_gguf).expanduser() if demo_gguf else None,
        open_to_all=environ.get("LMDYNO_OPEN_TO_ALL", ""),
        mode=_mode(environ.get("LMDYNO_MODE") or Mode.LIVE),
        recordings_dir=Path(recordings).expanduser(),
        end_engines_after=environ.get("LMDYNO_END_ENGINES_AFTER") or "60",
        lanes_named=bool(environ.get("LMDYNO_LANES")),
    )


def _mode(name: str) -> Mode:
    if name not in list(Mode):
        raise ConfigError(
            N_("LMDYNO_MODE is {value}", value=name), hint=N_("Allowed: {names}.", names=", ".join(Mode))
        )
    return Mode(name)


def _adopt_old_folders(home: Path) -> None:
    """Rename the folder of images from the name it had up to version 0.1."""
    old, new = home / "pictures", home / "images"
    # A read-only home keeps its old folder: images are then missing, which pages can show.
    with suppress(OSError):
        if old.is_dir() and not new.exists():
            old.rename(new)
