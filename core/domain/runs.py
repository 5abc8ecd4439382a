"""What a run stores, and what the history lists of runs and turns.

Of a load test every request is stored with its timestamps. A load test is made of passes: one stretch of time
with one load on one lane, or on several lanes together. Of a quality run every answer is stored, and the
likelihood of every text, of each lane. What is said about a run (percentiles, speeds and goodput; right
answers, agreement, perplexity) is computed from these facts by `core.bench` and `core.quality`.

An entry of the history is a run or a turn, with what a person wrote to it.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import TypeAlias

from core.domain.specs import LaneSpec
from core.domain.timing import Timing
from core.domain.turns import ErrorInfo, FinishReason, Machine, Place
from core.errors import EngineError, LMDynoError
from core.i18n import N_, Message, Text

ProgressCallback: TypeAlias = Callable[[Text, float | None], None]
"""Takes what a run does now, in words, and how much of the whole is done (0 to 1; None if unknown)."""


class RunKind(StrEnum):
    """The kinds of entries of the history."""

    CHAT = "chat"
    BENCH = "bench"
    QUALITY = "quality"
    WALK = "walk"
    QUIZ = "quiz"
    SWEEP = "sweep"


class RunState(StrEnum):
    """The state of a run; every state but RUNNING is final."""

    RUNNING = "running"
    DONE = "done"
    STOPPED = "stopped"
    """By a person; what was measured by then is kept."""
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadLevel:
    """The load on a lane; exactly one of the two is set."""

    concurrency: int | None = None
    """Closed loop: requests that are always under way; each answer makes room for the next."""
    rate_req_per_s: float | None = None
    """Open loop: requests are sent when the schedule says so, whether or not earlier ones are answered."""

    @property
    def value(self) -> float:
        """The place on a load axis: concurrency, or requests per second."""
        return self.rate_req_per_s or 0.0 if self.concurrency is None else self.concurrency

    @property
    def label(self) -> Message:
        """Such as `concurrency 4` or `2.5 requests/s`."""
        if self.concurrency is None:
            return N_("{rate} requests/s", rate=f"{self.rate_req_per_s:g}")
        return N_("concurrency {n}", n=f"{self.concurrency:,}")

    @property
    def short_label(self) -> str:
        """For a narrow column: `4` or `2.5/s`."""
        return f"{self.rate_req_per_s:g}/s" if self.concurrency is None else f"{self.concurrency:,}"


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchRequest:
    """One request of a load test."""

    number: int
    """Unique within the run, in the order of sending."""
    pass_number: int
    lane: str
    warmup: bool = False
    """Sent before the measured stretch; part of no figure."""
    planned_ns: int | None = None
    """Open loop: when the schedule wanted it sent, on the clock of the timestamps."""
    timing: Timing | None = None
    """None for a request that was never sent."""
    prompt_tokens: int | None = None
    cached_tokens: int | None = None
    finish_reason: FinishReason | None = None
    error: ErrorInfo | None = None

    @property
    def ok(self) -> bool:
        """Answered to its end."""
        return self.error is None and self.finish_reason is not FinishReason.CANCELLED

    @property
    def failed(self) -> bool:
        """Ended by an error; a request that somebody stopped is neither ok nor failed."""
        return self.error is not None

    @property
    def has_text(self) -> bool:
        """Whether the answer has content or reasoning."""
        return self.timing is not None and any((*self.timing.content_chars, *self.timing.reasoning_chars))

    @property
    def delay_s(self) -> float | None:
        """Open loop: how much later than planned it was sent."""
        if self.planned_ns is None or self.timing is None:
            return None
        return (self.timing.sent_ns - self.planned_ns) * 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuUse:
    """One GPU during a pass; None where it could not be measured."""

    index: int
    name: str
    peak_used_bytes: int | None = None
    energy_j: float | None = None
    """Of the whole board, idle power included."""
    energy_gap: str | None = None
    """Why there is no energy."""
    mean_power_w: float | None = None
    idle_power_w: float | None = None
    mean_utilisation_ratio: float | None = None
    node: str | None = None
    """Of a cluster; None for the machine that measured."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineUse:
    """One lane's engine during a pass: its whole process tree."""

    lane: str
    peak_gpu_bytes: int | None = None
    peak_resident_bytes: int | None = None
    mean_cpu_ratio: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineQueue:
    """The growth, during a pass, of the counter of queue times that a lane's server publishes."""

    lane: str
    total_s: float
    """Entry into the engine's queue → first scheduling, summed over `requests`."""
    requests: int
    """That the engine counted, whoever sent them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchPass:
    """One measured stretch; its warm-up came before and is not part of it."""

    number: int
    repeat: int
    """From 0; each repeat goes through all lanes and levels once more."""
    lanes: tuple[str, ...]
    """The lanes under load at the same time; more than one is a pass together."""
    level: LoadLevel
    started_at: datetime
    start_ns: int
    """The first measured request may be sent."""
    end_ns: int | None = None
    """The last measured answer ended; None while it runs."""
    gpus: tuple[GpuUse, ...] = ()
    engines: tuple[EngineUse, ...] = ()
    queues: tuple[EngineQueue, ...] = ()
    """Of the lanes whose servers publish one."""

    @property
    def together(self) -> bool:
        return len(self.lanes) > 1


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredEngine:
    """A lane of a run and what answered for it; an error if it could not take part."""

    lane: LaneSpec
    engine_version: str | None = None
    device: str | None = None
    served_model: str | None = None
    place: Place | None = None
    """None for runs of versions that did not note it."""
    weight_bytes: int | None = None
    """The weights on disk, in the form that the lane loads; None where they aren't on this machine."""
    error: ErrorInfo | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneFacts(MeasuredEngine):
    """A lane of a load test, with what a reader of its figures must know."""

    prompts: Text = ""
    """How its prompts were made and their length counted, in words."""
    image_tokens: float | None = None
    """What an image takes of a prompt, computed from the checkpoint's files: a mean of the plan's images.
    None without images, and where the arithmetic is not known."""
    notes: tuple[Text, ...] = ()
    """How requests were sent, and what the server did."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFacts:
    """The fields that runs of every kind share."""

    id: str
    created_at: datetime
    state: RunState
    title: str
    plan: str
    """The plan as JSON."""
    lmdyno: str
    """LMDyno's version."""
    machine: Machine | None = None
    finished_at: datetime | None = None
    error: ErrorInfo | None = None
    imported: bool = False
    """Measured elsewhere and read from an exported file."""
    note: str = ""
    tag: str = ""


def job_result(run: RunFacts, *, stopped: Text) -> dict[str, str]:
    """What the job of an ended run hands in. Raises LMDynoError: `stopped`, or the run's own error."""
    if run.state is RunState.STOPPED:
        raise LMDynoError(stopped, hint=N_("The results so far are kept."), code="stopped")
    if run.error is not None:
        raise EngineError(run.error.message, hint=run.error.hint, code=run.error.code)
    return {"run_id": run.id, "state": run.state}


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchRun(RunFacts):
    """A run without its passes and requests; its plan is a `core.bench.plan.BenchPlan`."""

    lanes: tuple[LaneFacts, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchRecord:
    """A run with all its facts."""

    run: BenchRun
    passes: tuple[BenchPass, ...] = field(default=())
    requests: tuple[BenchRequest, ...] = field(default=())


class Prompted(StrEnum):
    """The list of the plan that an answer belongs to."""

    PROMPT = "prompt"
    """A prompt whose answers are compared with the reference's."""
    TASK = "task"
    """A question with a known answer."""


class ScoringMethod(StrEnum):
    """The method by which the likelihood of a text was measured."""

    FORWARD_PASS = "forward-pass"
    """The logits of one pass over the token ids, in a process with the lane's own weights and settings."""
    GET_PPL = "get-ppl"
    """LMDeploy's `/get_ppl`: the mean cross-entropy of the token ids."""
    PROMPT_LOGPROBS = "prompt-logprobs"
    """The log-probability of each prompt token, as vLLM's `prompt_logprobs` reports it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QualityAnswer:
    """One lane's answer to one prompt or task."""

    lane: str
    part: Prompted
    item: int
    """Its place in the plan's list."""
    repeat: int = 0
    """1 for the reference's second answer, which shows the numerical noise."""
    text: str = ""
    prompt_tokens: int | None = None
    finish_reason: FinishReason | None = None
    error: ErrorInfo | None = None
    timing: Timing | None = None
    token_ids: tuple[int, ...] | None = None
    """Of an answer to a prompt: its text by the reference's tokenizer; None where that is not known."""

    @property
    def answered(self) -> bool:
        return self.error is None and self.finish_reason is not FinishReason.CANCELLED

    @property
    def cut_off(self) -> bool:
        """Whether it ended only because it reached the maximum number of tokens."""
        return self.finish_reason is FinishReason.LENGTH


@dataclass(frozen=True, slots=True, kw_only=True)
class SequenceScore:
    """The likelihood of one sequence of token ids; its first token is given, not scored."""

    tokens: int
    """Scored tokens."""
    nll_nats: float
    """Their negative log-likelihood, summed."""
    top1_matches: int | None = None
    """Positions where the lane's most likely token is also the reference's; None without logits."""
    kl_nats: float | None = None
    """KL divergence of the lane from the reference, summed over the positions; None without logits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TextScore:
    """The likelihood of one text, sequence by sequence; with an error where it could not be found out."""

    text: str
    """The text's name in the plan."""
    sha256: str = ""
    """Of the token ids, so that two records can be told to be about the same sequences."""
    method: ScoringMethod | None = None
    sequences: tuple[SequenceScore, ...] = ()
    error: ErrorInfo | None = None

    @property
    def tokens(self) -> int:
        return sum(sequence.tokens for sequence in self.sequences)

    @property
    def nats_per_token(self) -> float | None:
        """Mean cross-entropy in nats; its exponential is the perplexity."""
        return sum(sequence.nll_nats for sequence in self.sequences) / self.tokens if self.tokens else None


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenizerFacts:
    """The facts that identify a lane's tokenizer; None where the lane does not reveal it."""

    probe_sha256: str | None = None
    """Of the token ids of a fixed text."""
    vocab_sha256: str | None = None
    """Of the whole vocabulary with its ids."""
    template_sha256: str | None = None
    """Of the token ids of a fixed conversation, put into the chat template."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExternalScore:
    """One result of another program, such as lm-evaluation-harness."""

    program: str
    task: str
    metric: str
    value: float
    standard_error: float | None = None
    n: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class QualityLane(MeasuredEngine):
    """A lane of a quality run, with what its answers took and their scores."""

    peak_gpu_bytes: int | None = None
    """The engine's own GPU memory while it answered, its reserved KV cache included."""
    peak_resident_bytes: int | None = None
    """The engine's own host memory while it answered."""
    energy_j: float | None = None
    """Of the boards that the engine is on, over all its requests; None unless known for each of them."""
    tokenizer: TokenizerFacts = field(default_factory=TokenizerFacts)
    scores: tuple[TextScore, ...] = ()
    external: tuple[ExternalScore, ...] = ()
    external_error: ErrorInfo | None = None
    """Why another program's tasks have no result."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QualityRun(RunFacts):
    """A run without its answers; its plan is a `core.quality.plan.QualityPlan`."""

    lanes: tuple[QualityLane, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class QualityRecord:
    """A run with all its facts."""

    run: QualityRun
    answers: tuple[QualityAnswer, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredLane:
    """A lane of a benchmark or quality run that has ended, and what it was measured on."""

    run_id: str
    measured_at: datetime
    plan: str
    """The run's plan as JSON."""
    lane: LaneSpec
    engine_version: str | None
    machine: Machine | None


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneSummary:
    """One lane of an entry in two figures; None where its answers leave them undefined."""

    lane: str
    ttft_s: float | None
    """Of a turn's request; of a load test the p50 at the lane's lightest load."""
    decode_tok_per_s: float | None
    """Likewise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """An entry in the few figures of a list."""

    lanes: tuple[LaneSummary, ...]
    answered: int
    """Requests answered to their end, without warm-up."""
    failed: int
    """Requests that ended by an error, and lanes that could not take part in a load test."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryEntry:
    """A turn or a load test as a list shows it."""

    kind: RunKind
    id: str
    created_at: datetime
    updated_at: datetime
    """When a load test was last saved; of a turn when it was asked."""
    title: str
    """The start of the prompt, or the title of the plan, in one line."""
    lanes: tuple[str, ...]
    models: tuple[str, ...]
    """Of the lanes, each once; without those that name none."""
    host: str | None
    state: str
    """`done`, `running`, `stopped` or `failed`; a turn has failed if any of its answers has."""
    with_images: bool = False
    """Of a turn: its prompt had images, its own or earlier turns', and so a TTFT apart from text."""
    note: str = ""
    tag: str = ""
    deleted_at: datetime | None = None
    """When it was taken out of the lists; None for everything that was not."""
    owner: str | None = None
    """Whose it is (`core.access`); None where there are no accounts."""
    summary: Summary | None = None
    """None for a load test that goes on, or whose summary has not been kept yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryChoices:
    """The values that a filter offers: everything that is in the store, in the order of the alphabet."""

    lanes: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryFilter:
    """A filter of the history; None is any."""

    kind: RunKind | None = None
    lane: str | None = None
    model: str | None = None
    host: str | None = None
    tag: str | None = None
    text: str = ""
    """Contained in the prompt or title, or in the note, in whatever case."""
    since: datetime | None = None
    until: datetime | None = None
    deleted: bool = False
    """Only what was deleted and not yet purged, instead of everything else."""
