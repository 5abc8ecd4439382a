"""One lane at one load, over all repeats: every figure that is shown of it, from the timestamps, and the
notes that belong to these figures before they are compared.

Only answered requests are averaged; failed ones are counted by the code of their error. Notes say how the
answers ended, which may be empty, cut or of another length, and how long requests waited: here for their turn
to be sent, and in the engine's queue. Between the two lies what nobody tells: the network, and what a server
does before its engine's queue.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import NamedTuple

from core.bench.passes import is_serial
from core.bench.plan import BenchPlan, Isolation, Limits, Workload
from core.bench.results.definitions import TTFT_WITH_IMAGE, Definition, Figures, system_tok_per_s
from core.bench.statistics import (
    Distribution,
    RepeatStatistics,
    distribution,
    grouped_distribution,
    over_repeats,
)
from core.domain.fairness import LMDEPLOY_KINDS
from core.domain.runs import BenchPass, BenchRequest, EngineUse, LaneFacts, LoadLevel
from core.domain.specs import LaneSpec
from core.domain.timing import Timing
from core.domain.turns import FinishReason
from core.i18n import N_, Message, Text

_NS = 1e-9

BEFORE_SENDING = N_(
    "schedule → send, by LMDyno's own clock; open loads only, as closed ones have no schedule"
)
IN_THE_ENGINE = N_(
    "entry into the engine's queue → first scheduling: a mean, by the server's own counter at "
    "/metrics. Unknown "
    "without such a counter, and where it counted other requests than those of this run. LMDeploy's counter "
    "leaves out the wait for one of its max_batch_size slots"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestCounts:
    ok: int
    failed: int
    cancelled: int
    """Cut off by stopping the run; neither ok nor failed."""
    by_code: Mapping[str, int]
    """The failed ones by the code of their error."""

    @property
    def ended(self) -> int:
        return self.ok + self.failed


@dataclass(frozen=True, slots=True, kw_only=True)
class OddLengths:
    """Answers whose length is not what was asked: another one where it was fixed, else a longer one."""

    number: int
    low: int
    high: int
    """The shortest and the longest of them, in tokens."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueTime:
    """Time in the engine's queue: a mean, since the counter has nothing else."""

    mean_s: float
    n: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One lane at one load. None where the facts leave a figure undefined."""

    lane: str
    together: tuple[str, ...]
    """All lanes that were under load at the same time; only `lane` if it was alone."""
    level: LoadLevel
    repeats: int
    requests: RequestCounts
    duration_s: float
    """Of all repeats together."""
    ttft_s: Distribution | None
    tpot_s: Distribution | None
    itl_s: Distribution | None
    icl_s: Distribution | None
    e2e_s: Distribution | None
    delay_s: Distribution | None
    """Open loop: schedule → send."""
    queue_s: QueueTime | None
    """In the engine's own queue, as the engine counts."""
    decode_tok_per_s: Distribution | None
    e2e_tok_per_s: Distribution | None
    prompt_tokens: float | None
    """Mean a request, as the server counts, chat template and images included."""
    images_per_request: int
    image_tokens: float | None
    """Mean a request, as computed for the lane's model; a part of `prompt_tokens`."""
    output_tokens: int | None
    odd_lengths: OddLengths | None
    """None where every answer is as long as was asked, or its length is unknown."""
    system_tok_per_s: float | None
    req_per_s: float
    sent_req_per_s: float | None
    """Open loop: the rate at which requests really were sent."""
    goodput_req_per_s: float | None
    goodput_ratio: float | None
    """Share of all measured requests, failed ones included, that met every limit."""
    energy_j: float | None
    energy_j_per_token: float | None
    peak_gpu_bytes: int | None
    """Of the lane's engine, on all its GPUs."""
    peak_resident_bytes: int | None
    stability: Mapping[str, RepeatStatistics]
    """`ttft_s`, `tpot_s` and `system_tok_per_s`: the mean of each repeat, over the repeats."""
    notes: tuple[Text, ...]

    @property
    def is_together(self) -> bool:
        """Whether other lanes were under load at the same time."""
        return len(self.together) > 1


@dataclass(frozen=True, slots=True)
class PointKey:
    """The lanes and the load that identify a point."""

    lane: str
    together: tuple[str, ...]
    level: LoadLevel

    @property
    def is_together(self) -> bool:
        return len(self.together) > 1


@dataclass(frozen=True, slots=True)
class Part:
    """One lane's requests of one pass."""

    bench_pass: BenchPass
    requests: tuple[BenchRequest, ...]

    @property
    def ok(self) -> tuple[BenchRequest, ...]:
        return tuple(request for request in self.requests if request.ok)

    @property
    def timings(self) -> tuple[Timing, ...]:
        return tuple(request.timing for request in self.ok if request.timing)

    @property
    def window_s(self) -> float:
        """From the start to the lane's last answer; the other lanes of a pass together may take longer."""
        ends = [r.timing.ended_ns for r in self.requests if r.timing and r.timing.ended_ns]
        last = max(ends, default=self.bench_pass.end_ns or self.bench_pass.start_ns)
        return max(0.0, (last - self.bench_pass.start_ns) * _NS)


def meets(timing: Timing, limits: Limits, figures: Figures | None = None) -> bool | None:
    """Whether a request kept every limit; None if that can't be told.

    `figures` are its latencies by another tool's definitions. An answer of one token has no TPOT, and none to
    exceed a limit with.
    """
    latencies = figures or timing
    tpot_s = latencies.tpot_s
    if tpot_s is None and len(timing.chunk_ns) < 2:
        tpot_s = 0.0
    pairs = ((latencies.ttft_s, limits.ttft_s), (tpot_s, limits.tpot_s), (latencies.e2e_s, limits.e2e_s))
    kept = [None if value is None else value <= limit for value, limit in pairs if limit is not None]
    return None if None in kept and False not in kept else all(kept)


def point_of(
    key: PointKey, parts: Sequence[Part], facts: LaneFacts, plan: BenchPlan, definition: Definition
) -> Point:
    """The figures of a lane at a load; `parts` are its passes there."""
    timings = [timing for part in parts for timing in part.timings]
    requested = plan.workload.output_tokens if plan.workload.fixed_output else None
    figures = [definition.apply(timing, requested) for timing in timings]
    measured = [request for part in parts for request in part.requests]
    counts = _counts(measured)
    window_s = sum(part.window_s for part in parts)
    tokens = _known_sum([figure.output_tokens for figure in figures])
    good = _good(timings, figures, plan.limits)
    energy_j = _energy_j(parts)
    answered = [(part.bench_pass, len(part.ok)) for part in parts]

    def spread(values: Sequence[float | None]) -> Distribution | None:
        return distribution([value for value in values if value is not None], seed=plan.seed)

    return Point(
        lane=key.lane,
        together=key.together,
        level=key.level,
        repeats=len(parts),
        requests=counts,
        duration_s=window_s,
        ttft_s=spread([figure.ttft_s for figure in figures]),
        tpot_s=spread([figure.tpot_s for figure in figures]),
        itl_s=grouped_distribution([figure.itl_s for figure in figures], seed=plan.seed),
        icl_s=grouped_distribution([timing.icl_s for timing in timings], seed=plan.seed),
        e2e_s=spread([figure.e2e_s for figure in figures]),
        delay_s=spread([request.delay_s for part in parts for request in part.requests]),
        queue_s=_queue_time(key.lane, answered),
        decode_tok_per_s=spread([1 / figure.tpot_s if figure.tpot_s else None for figure in figures]),
        e2e_tok_per_s=spread([_e2e_speed(figure) for figure in figures]),
        prompt_tokens=_mean_prompt_tokens(parts),
        images_per_request=1 if plan.workload.images else 0,
        image_tokens=facts.image_tokens,
        output_tokens=tokens,
        odd_lengths=_odd_lengths(timings, plan.workload),
        system_tok_per_s=_system_speed(parts, definition, requested),
        req_per_s=_share(counts.ok, window_s) or 0.0,
        sent_req_per_s=_sent_rate(parts) if key.level.rate_req_per_s is not None else None,
        goodput_req_per_s=_share(good, window_s),
        goodput_ratio=_share(good, counts.ended),
        energy_j=energy_j,
        energy_j_per_token=None if key.is_together else _share(energy_j, tokens),
        peak_gpu_bytes=_peak(parts, key.lane, lambda use: use.peak_gpu_bytes),
        peak_resident_bytes=_peak(parts, key.lane, lambda use: use.peak_resident_bytes),
        stability=_stability(parts, definition, requested),
        notes=(
            *_notes(key, facts, plan),
            *facts.notes,
            *_answer_notes(measured, plan.workload),
            *_queue_notes(facts.lane, key.level, answered),
        ),
    )


def _share(part: float | None, whole: float | None) -> float | None:
    """part / whole; None where either is unknown or there is no whole."""
    return part / whole if part is not None and whole else None


def _mean_prompt_tokens(parts: Sequence[Part]) -> float | None:
    counts = [r.prompt_tokens for part in parts for r in part.ok if r.prompt_tokens is not None]
    return fmean(counts) if counts else None


def _odd_lengths(timings: Sequence[Timing], workload: Workload) -> OddLengths | None:
    asked = workload.output_tokens
    lengths = [timing.output_tokens for timing in timings if timing.output_tokens is not None]
    odd = [n for n in lengths if n > asked or (workload.fixed_output and n != asked)]
    return OddLengths(number=len(odd), low=min(odd), high=max(odd)) if odd else None


def _counts(requests: Sequence[BenchRequest]) -> RequestCounts:
    codes = Counter(request.error.code for request in requests if request.error)
    ok = sum(request.ok for request in requests)
    return RequestCounts(
        ok=ok,
        failed=codes.total(),
        cancelled=len(requests) - ok - codes.total(),
        by_code=dict(codes.most_common()),
    )


def _system_speed(parts: Sequence[Part], definition: Definition, requested: int | None) -> float | None:
    """All tokens by all time: the mean of the repeats' speeds, weighted by how long each took."""
    speeds = [
        (system_tok_per_s(definition, part.timings, part.window_s, requested), part.window_s)
        for part in parts
        if part.timings
    ]
    if not speeds or any(speed is None for speed, _ in speeds):
        return None
    return sum((speed or 0.0) * time_s for speed, time_s in speeds) / sum(time_s for _, time_s in speeds)


def _sent_rate(parts: Sequence[Part]) -> float | None:
    """Requests sent by the time between the first and the last one; None for fewer than two."""
    gaps, time_s = 0, 0.0
    for part in parts:
        sent = sorted(request.timing.sent_ns for request in part.requests if request.timing)
        if len(sent) > 1:
            gaps += len(sent) - 1
            time_s += (sent[-1] - sent[0]) * _NS
    return gaps / time_s if time_s else None


def _e2e_speed(figures: Figures) -> float | None:
    tokens = figures.output_tokens
    return tokens / figures.e2e_s if tokens is not None and figures.e2e_s else None


def _good(timings: Sequence[Timing], figures: Sequence[Figures], limits: Limits | None) -> int | None:
    if limits is None:
        return None
    verdicts = [meets(timing, limits, figure) for timing, figure in zip(timings, figures, strict=True)]
    return None if None in verdicts else sum(bool(verdict) for verdict in verdicts)


def _energy_j(parts: Sequence[Part]) -> float | None:
    """Of the GPUs that were in use, over all passes; of passes together it belongs to all their lanes."""
    energies = [gpu.energy_j for part in parts for gpu in part.bench_pass.gpus]
    known = [energy for energy in energies if energy is not None]
    return sum(known) if known and len(known) == len(energies) else None


def _peak(parts: Sequence[Part], lane: str, value: Callable[[EngineUse], int | None]) -> int | None:
    uses = (value(use) for part in parts for use in part.bench_pass.engines if use.lane == lane)
    return max((use for use in uses if use is not None), default=None)


def _stability(
    parts: Sequence[Part], definition: Definition, requested: int | None
) -> dict[str, RepeatStatistics]:
    means: dict[str, list[float]] = {"ttft_s": [], "tpot_s": [], "system_tok_per_s": []}
    for part in parts:
        figures = [definition.apply(timing, requested) for timing in part.timings]
        for name, values in (
            ("ttft_s", [f.ttft_s for f in figures if f.ttft_s is not None]),
            ("tpot_s", [f.tpot_s for f in figures if f.tpot_s is not None]),
        ):
            if values:
                means[name].append(fmean(values))
        if (speed := _system_speed([part], definition, requested)) is not None:
            means["system_tok_per_s"].append(speed)
    return {
        name: statistics for name, values in means.items() if (statistics := over_repeats(values)) is not None
    }


def _notes(key: PointKey, facts: LaneFacts, plan: BenchPlan) -> tuple[Text, ...]:
    notes: list[Text] = []
    if key.is_together:
        others = ", ".join(name for name in key.together if name != key.lane)
        notes.append(N_("measured together with {lanes}", lanes=others))
    elif plan.isolation is Isolation.STOPPED:
        notes.append(N_("measured alone, other lanes stopped"))
    else:
        notes.append(N_("measured alone, other lanes idle"))
    if is_serial(facts.lane) and (key.level.concurrency is None or key.level.concurrency > 1):
        notes.append(N_("serves one request at a time: transformers without continuous batching"))
    return (*notes, *_image_notes(facts, plan.workload))


def _image_notes(facts: LaneFacts, workload: Workload) -> tuple[Text, ...]:
    if not workload.images:
        return ()
    if facts.image_tokens is None:
        share = N_("an image with each request: {definition}", definition=TTFT_WITH_IMAGE)
    else:
        share = N_(
            "an image with each request, on average {tokens} of the prompt's tokens: {definition}",
            tokens=f"{facts.image_tokens:,.0f}",
            definition=TTFT_WITH_IMAGE,
        )
    if workload.vary_images:
        return share, N_(
            "each image has unique noise in one corner, so that no engine can reuse cached results"
        )
    return share, N_("the same images are sent repeatedly, so an engine may have cached them")


def _known_sum(counts: Sequence[int | None]) -> int | None:
    known = [count for count in counts if count is not None]
    return sum(known) if known and len(known) == len(counts) else None


def _queue_time(lane: str, answered: Sequence[tuple[BenchPass, int]]) -> QueueTime | None:
    """The mean over a lane's passes, each with the number of its requests that were answered there.

    None unless the engine counted just these in every pass: with others in the sum, or some of ours missing,
    it is not theirs.
    """
    counted = _counted(lane, answered)
    if len(counted) != len(answered) or _is_mixed(counted):
        return None
    n = sum(requests for _, requests, _ in counted)
    return QueueTime(mean_s=sum(total_s for total_s, _, _ in counted) / n, n=n) if n else None


def _queue_notes(
    lane: LaneSpec, level: LoadLevel, answered: Sequence[tuple[BenchPass, int]]
) -> tuple[Text, ...]:
    """Return what must be known of a lane's queue time, or why it is unknown although its server counts."""
    counted = _counted(lane.name, answered)
    if not counted:
        return ()
    if _is_mixed(counted):
        return (N_("queue time unknown: the engine also counted requests of others"),)
    places = lane.settings.requests_at_once
    if lane.kind in LMDEPLOY_KINDS and (level.concurrency or 0) > places:
        return (
            N_(
                "serves at most {n} requests at once: its queue time leaves out the wait for a slot",
                n=f"{places:,}",
            ),
        )
    return ()


def _counted(lane: str, answered: Sequence[tuple[BenchPass, int]]) -> list[tuple[float, int, int]]:
    """Seconds and requests by the engine's counter, and the requests answered, of the passes it told of."""
    return [
        (queue.total_s, queue.requests, ok)
        for bench_pass, ok in answered
        for queue in bench_pass.queues
        if queue.lane == lane
    ]


def _is_mixed(counted: Sequence[tuple[float, int, int]]) -> bool:
    return any(requests != ok for _, requests, ok in counted)


class _Observation(NamedTuple):
    text: Message
    requests: int
    """That it is true of."""
    lengths: str = ""
    asked: str = ""


def _answer_notes(requests: Sequence[BenchRequest], workload: Workload) -> tuple[Message, ...]:
    """Notes on the answered requests of a lane at a load."""
    answered = [request for request in requests if request.ok]
    return tuple(
        observation.text.filled(
            n=observation.requests,
            all=len(answered),
            lengths=observation.lengths,
            asked=observation.asked,
        )
        for observation in (*_ends(answered), *_lengths(answered, workload))
        if observation.requests
    )


def _ends(answered: Sequence[BenchRequest]) -> Iterator[_Observation]:
    yield _Observation(
        N_("{n} of {all} answers have no text; they make requests/s look better than it is."),
        sum(not request.has_text for request in answered),
    )
    for reason, text in (
        (None, N_("{n} of {all} answers ended without a reason, so they may be cut short.")),
        (FinishReason.CONTENT_FILTER, N_("{n} of {all} answers were cut by the server's content filter.")),
        (FinishReason.TOOL_CALLS, N_("{n} of {all} answers ended with a tool call.")),
    ):
        yield _Observation(text, sum(request.finish_reason is reason for request in answered))


def _lengths(answered: Sequence[BenchRequest], workload: Workload) -> Iterator[_Observation]:
    timings = [request.timing for request in answered if request.timing]
    lengths = [timing.output_tokens for timing in timings if timing.output_tokens is not None]
    asked = workload.output_tokens
    if workload.fixed_output:
        wrong = [length for length in lengths if length != asked]
        text = N_("{n} of {all} answers are {lengths} tokens long instead of {asked}.")
    else:
        wrong = [length for length in lengths if length > asked]
        text = N_("{n} of {all} answers are {lengths} tokens long, though at most {asked} were asked for.")
    yield _Observation(text, len(wrong), _range(wrong), f"{asked:,}")
    yield _Observation(
        N_("{n} of {all} answers came in one burst; their decode speed is unknown."),
        sum(timing.is_burst for timing in timings),
    )
    yield _Observation(
        N_("The server counted no tokens for {n} of {all} answers."), len(answered) - len(lengths)
    )


def _range(lengths: Sequence[int]) -> str:
    if not lengths:
        return ""
    low, high = min(lengths), max(lengths)
    return f"{low:,}" if low == high else f"{low:,}–{high:,}"
