"""What every command starts from: settings, and the lanes of this machine."""

from core.config import LaneBook, load_lanes
from core.settings import Settings, load_settings
from core.telemetry.nvml import Nvml


def load() -> tuple[Settings, LaneBook]:
    """Settings and lanes; raises ConfigError for a faulty lanes file."""
    settings = load_settings()
    return settings, load_lanes(settings, gpu=bool(Nvml().devices()))
