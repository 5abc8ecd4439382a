"""A walk's facts: what each of the tutorial's steps did, its figures and its time."""

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from core import units
from core.domain.bench import RunState
from core.domain.specs import LaneSpec
from core.domain.turns import ErrorInfo, Machine, new_id, utc_now
from core.i18n import Text


class StepKind(StrEnum):
    """The tutorial's steps, in its order."""

    ENVIRONMENT = "environment"
    TRANSFORMERS = "transformers"
    TURBOMIND = "turbomind"
    KV_CACHE = "kv-cache"
    QUANTISE = "quantise"
    AWQ = "awq"
    SERVER = "server"
    PIPELINE = "pipeline"
    IMAGE = "image"
    PUBLISH = "publish"


class StepState(StrEnum):
    DONE = "done"
    SKIPPED = "skipped"
    FAILED = "failed"


class Unit(StrEnum):
    """What a figure counts."""

    SECONDS = "s"
    SPEED = "tok/s"
    BYTES = "bytes"
    RATIO = "ratio"
    COUNT = "count"


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One measured or predicted number; None where it is unknown."""

    label: Text
    value: float | None
    unit: Unit
    n: int = 1

    @property
    def text(self) -> str:
        """The value with its unit, "–" where unknown."""
        match self.unit:
            case Unit.SECONDS:
                return units.milliseconds(self.value)
            case Unit.SPEED:
                return units.tok_per_s(self.value)
            case Unit.BYTES:
                return units.gib(self.value)
            case Unit.RATIO:
                return units.percent(self.value)
            case Unit.COUNT:
                return units.count(None if self.value is None else round(self.value))


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What was asked of whom, and what came back."""

    who: Text
    prompt: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StepResult:
    """One step as it went; `reason` says why it was skipped, `error` why it failed."""

    kind: StepKind
    state: StepState
    duration_s: float = 0.0
    by_hand: str = ""
    """The command or program that does the same."""
    figures: tuple[Figure, ...] = ()
    answers: tuple[Answer, ...] = ()
    notes: tuple[Text, ...] = ()
    reason: Text = ""
    error: ErrorInfo | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class WalkRun:
    """A walk with the steps taken so far."""

    model: str
    id: str = field(default_factory=new_id)
    state: RunState = RunState.DONE
    """RUNNING while steps are left; done even if a step failed."""
    lanes: tuple[LaneSpec, ...] = ()
    """Those that the steps use."""
    machine: Machine | None = None
    created_at: datetime = field(default_factory=utc_now)
    lmdyno: str = ""
    steps: tuple[StepResult, ...] = ()
    schema_version: int = 1

    @property
    def duration_s(self) -> float:
        return sum(step.duration_s for step in self.steps)

    @property
    def failed(self) -> int:
        return sum(step.state is StepState.FAILED for step in self.steps)
