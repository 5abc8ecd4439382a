"""Whether a measurement is one of a lane as it is now: same settings, engine version and machine."""

from dataclasses import dataclass, replace
from enum import StrEnum

from core.domain.history import MeasuredLane
from core.domain.specs import EngineSettings, LaneSpec, Patience
from core.domain.turns import Machine


class Staleness(StrEnum):
    """Why there is no measurement of a lane as it is now."""

    NEVER_MEASURED = "never-measured"
    OTHER_SETTINGS = "other-settings"
    OTHER_ENGINE_VERSION = "other-engine-version"
    OTHER_MACHINE = "other-machine"


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneNow:
    """A lane as it is now."""

    lane: LaneSpec
    engine_version: str | None
    """None while its engine doesn't run: then any version is taken for its own."""
    machine: Machine


def staleness(now: LaneNow, measured: MeasuredLane) -> Staleness | None:
    """What is different since a measurement; None if nothing is that makes a difference."""
    if _configuration(now.lane) != _configuration(measured.lane):
        return Staleness.OTHER_SETTINGS
    if measured.machine is None or _fingerprint(now.machine) != _fingerprint(measured.machine):
        return Staleness.OTHER_MACHINE
    versions = (now.engine_version, measured.engine_version)
    if None not in versions and versions[0] != versions[1]:
        return Staleness.OTHER_ENGINE_VERSION
    return None


def _configuration(lane: LaneSpec) -> LaneSpec:
    """The lane without its patience: how long a request or a start may take changes no figure."""
    settings = replace(lane.settings, start_timeout_s=EngineSettings().start_timeout_s)
    return replace(lane, settings=settings, patience=Patience())


def _fingerprint(machine: Machine) -> tuple[object, ...]:
    """What figures depend on; the kernel's and Python's versions change too often to say much."""
    return (machine.host, machine.cpu, machine.cores, machine.memory_bytes, machine.gpus, machine.driver)
