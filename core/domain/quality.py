"""A quality run's facts: every answer, and the likelihood of every text, of each lane.

What is said about them (right answers, agreement, perplexity, differences to the reference) is computed from
these facts by `core.quality`.
"""

from dataclasses import dataclass, field
from enum import StrEnum

from core.domain.bench import MeasuredEngine, RunFacts
from core.domain.timing import Timing
from core.domain.turns import ErrorInfo, FinishReason


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
