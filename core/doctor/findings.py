"""Findings of the doctor: one line for each thing looked at."""

from dataclasses import dataclass
from enum import StrEnum

from core.domain.turns import ErrorInfo, Machine
from core.i18n import Text


class Status(StrEnum):
    """The severity of a finding: only `fail` needs something done before lanes can work as configured."""

    OK = "ok"
    INFO = "info"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at: what it is, how it is, and what to do about it if anything."""

    status: Status
    subject: Text
    detail: Text
    remedy: Text = ""


@dataclass(frozen=True, slots=True)
class LaneFitness:
    """Whether a lane can run on this machine; `reason` is None if it can."""

    name: str
    reason: ErrorInfo | None
    is_local: bool = True
    node: str | None = None
    """The node of the Ray cluster that the lane names; `reason` is then about the node."""

    @property
    def can_run(self) -> bool:
        return self.reason is None


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnosis:
    """Everything that one examination found."""

    findings: tuple[Finding, ...]
    lanes: tuple[LaneFitness, ...]
    machine: Machine

    @property
    def failed(self) -> bool:
        return any(finding.status is Status.FAIL for finding in self.findings)
