"""A walk's facts: what each of the tutorial's steps is and did, its figures and its time."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from core import units
from core.domain.runs import RunState
from core.domain.specs import LaneSpec
from core.domain.turns import ErrorInfo, Machine, new_id, utc_now
from core.i18n import N_, Text


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
    """The unit of a figure."""

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
    """A prompt to a lane, and its answer."""

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
    node: str | None = None
    """The node of the cluster that it was taken on; None for this machine."""
    machine: Machine | None = None
    created_at: datetime = field(default_factory=utc_now)
    lmdyno: str = ""
    steps: tuple[StepResult, ...] = ()
    schema_version: int = 1

    @property
    def title(self) -> Text:
        return walk_title(self.model, self.node)

    @property
    def duration_s(self) -> float:
        return sum(step.duration_s for step in self.steps)

    @property
    def failed(self) -> int:
        return sum(step.state is StepState.FAILED for step in self.steps)


def walk_title(model: str, node: str | None) -> Text:
    if node is None:
        return N_("Walk with {model}", model=model)
    return N_("Walk with {model} on node {node}", model=model, node=node)


@dataclass(frozen=True, slots=True)
class StepText:
    title: Text
    meaning: Text


STEP_TEXTS: Mapping[StepKind, StepText] = {
    StepKind.ENVIRONMENT: StepText(
        N_("Check the environment"), N_("Looks for a GPU, its driver, the engines, and the model's weights.")
    ),
    StepKind.TRANSFORMERS: StepText(
        N_("Chat with transformers"),
        N_("Starts Hugging Face transformers and sends two prompts, each cold and warm: the baseline."),
    ),
    StepKind.TURBOMIND: StepText(
        N_("Chat with TurboMind"), N_("The same weights and prompts in LMDeploy's TurboMind engine.")
    ),
    StepKind.KV_CACHE: StepText(
        N_("Set the KV cache ratio"),
        N_(
            "Starts TurboMind with KV cache ratios 0.8, 0.4, and 0.05, and compares predicted with "
            "measured memory."
        ),
    ),
    StepKind.QUANTISE: StepText(
        N_("Quantise to W4A16"),
        N_("Quantises the model to 4-bit AWQ, or shows how the existing weights were made."),
    ),
    StepKind.AWQ: StepText(
        N_("Chat with AWQ weights"), N_("Sends the same prompts to the 4-bit weights, at KV cache ratio 0.4.")
    ),
    StepKind.SERVER: StepText(
        N_("Serve the API"),
        N_(
            "Runs one client program against the API server, first with 16-bit and then with AWQ weights "
            "at the same address."
        ),
    ),
    StepKind.PIPELINE: StepText(
        N_("Use the Python pipeline"),
        N_(
            "Runs `lmdeploy.pipeline` in its own process: with defaults, with an engine configuration, "
            "and with AWQ."
        ),
    ),
    StepKind.IMAGE: StepText(
        N_("Ask about an image"), N_("Asks a vision model about an image, then asks a follow-up question.")
    ),
    StepKind.PUBLISH: StepText(
        N_("Publish the demo"), N_("Shows the ways to share this dashboard with others.")
    ),
}

STATE_NAMES: Mapping[StepState, Text] = {
    StepState.DONE: N_("done"),
    StepState.SKIPPED: N_("skipped"),
    StepState.FAILED: N_("failed"),
}
