"""What a plan will do: the order of passes, a rough estimate of the time that they take, and that in words;
and ready-made plans, the shortest of which goes by that estimate.

In every second repeat the lanes come in reverse order (ABBA), so that a machine that gets slower or faster
during a run favours nobody. All lanes are measured at one level before the next level begins. Only where
the other lanes' engines are stopped, a lane goes through all its levels first, since each change means
loading. The estimate goes by speeds seen on common machines. The words also say what makes the figures mean
less than they seem to.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from statistics import fmean

from core.bench.plan import (
    FILE_KINDS,
    LIMIT_PRESETS,
    Arrivals,
    BenchPlan,
    Isolation,
    Load,
    LoadKind,
    PromptKind,
    SendFrom,
    Workload,
)
from core.bench.statistics import P95_MIN_N, P99_MIN_N
from core.domain import fairness
from core.domain.runs import BenchRequest, LoadLevel
from core.domain.specs import EngineKind, LaneSpec
from core.domain.turns import RequestPlan
from core.i18n import N_, N_plural, Text, _, ngettext

SATURATION_GAIN = 0.05
"""A sweep ends where the next level brings less than this share more tokens a second."""

Group = tuple[str, ...]
"""Names of the lanes that are under load at the same time."""
_PASS_OVERHEAD_S = 0.3


@dataclass(frozen=True, slots=True)
class Step:
    """A pass to come."""

    repeat: int
    group: Group
    level: LoadLevel


def groups_of(plan: BenchPlan) -> tuple[Group, ...]:
    """Each lane alone, and all of them at once where their interference is asked for."""
    alone = tuple((lane.name,) for lane in plan.lanes)
    if plan.isolation is Isolation.TOGETHER:
        return (*alone, tuple(lane.name for lane in plan.lanes))
    return alone


def steps(plan: BenchPlan) -> Iterator[Step]:
    """All passes of a plan in order; of a sweep, all that it may come to."""
    groups = groups_of(plan)
    for repeat in range(plan.repeats):
        ordered = groups if repeat % 2 == 0 else groups[::-1]
        if plan.isolation is Isolation.STOPPED:
            yield from (Step(repeat, group, level) for group in ordered for level in plan.load.levels)
        else:
            yield from (Step(repeat, group, level) for level in plan.load.levels for group in ordered)


class SweepProgress:
    """Remembers what a sweep has reached, and says which steps are left out."""

    def __init__(self, plan: BenchPlan) -> None:
        self._is_sweep = plan.load.kind is LoadKind.SWEEP
        self._reached: dict[Group, list[tuple[int, float]]] = {}
        self._saturated: dict[Group, int] = {}

    def wanted(self, step: Step) -> bool:
        """False above the level at which the group's first repeat found no more to gain."""
        last = self._saturated.get(step.group)
        return last is None or (step.level.concurrency or 0) <= last

    def reached(self, step: Step, system_tok_per_s: float | None) -> None:
        """Take the result of a pass of the first repeat; None if nothing was answered, which ends it too."""
        if not self._is_sweep or step.repeat > 0 or step.level.concurrency is None:
            return
        levels = self._reached.setdefault(step.group, [])
        before = levels[-1][1] if levels else None
        levels.append((step.level.concurrency, system_tok_per_s or 0.0))
        if not system_tok_per_s or (before and system_tok_per_s < before * (1 + SATURATION_GAIN)):
            self._saturated[step.group] = step.level.concurrency


def saturation(speeds: Mapping[int, float]) -> int | None:
    """The lowest concurrency that reaches all but `SATURATION_GAIN` of the highest speed.

    `speeds` are tokens a second by concurrency; None with fewer than two levels, or without any speed.
    """
    if len(speeds) < 2 or not (highest := max(speeds.values())):
        return None
    return min(c for c, speed in speeds.items() if speed >= highest * (1 - SATURATION_GAIN))


@dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    """The expected times of a lane for one request at a time, in seconds."""

    ttft_s: float
    tpot_s: float


_GPU_SPEEDS = {
    EngineKind.TRANSFORMERS: Speed(ttft_s=0.05, tpot_s=0.035),
    EngineKind.TURBOMIND: Speed(ttft_s=0.01, tpot_s=0.004),
    EngineKind.AWQ: Speed(ttft_s=0.01, tpot_s=0.004),
    EngineKind.PYTORCH: Speed(ttft_s=0.03, tpot_s=0.010),
    EngineKind.ENDPOINT: Speed(ttft_s=0.1, tpot_s=0.015),
}
"""Of a model with about 2 billion parameters on a data-centre GPU."""
_CPU_SPEED = Speed(ttft_s=0.5, tpot_s=0.05)


def estimated_s(plan: BenchPlan, speeds: Mapping[str, Speed] | None = None) -> float:
    """Seconds that the plan takes, without starting engines; `speeds` by lane name where they are known.

    Engines are taken to serve several requests as fast as one, apart from those that serve one at a time.
    """
    return sum(estimated_step_s(plan, step, speeds) for step in steps(plan))


def estimated_step_s(plan: BenchPlan, step: Step, speeds: Mapping[str, Speed] | None = None) -> float:
    """Seconds that one pass takes, with its warm-up: as long as its slowest lane."""
    return max(
        _pass_s(plan, lane, step.level, request_s(plan, lane, speeds))
        for lane in plan.lanes
        if lane.name in step.group
    )


def assumed_speed(lane: LaneSpec) -> Speed:
    """The speed assumed for a lane without measurements."""
    return _CPU_SPEED if lane.settings.device == "cpu" else _GPU_SPEEDS[lane.kind]


def request_s(plan: BenchPlan, lane: LaneSpec, speeds: Mapping[str, Speed] | None = None) -> float:
    """Seconds that one request takes a lane that serves no other; `speeds` by lane name."""
    speed = (speeds or {}).get(lane.name) or assumed_speed(lane)
    return speed.ttft_s + plan.workload.output_tokens * speed.tpot_s


def speed_of(requests: Sequence[BenchRequest]) -> Speed | None:
    """The speed of a lane's earlier requests; None if they don't define it."""
    timings = [request.timing for request in requests if request.ok and request.timing]
    ttfts = [timing.ttft_s for timing in timings if timing.ttft_s is not None]
    tpots = [timing.tpot_s for timing in timings if timing.tpot_s is not None]
    return Speed(ttft_s=fmean(ttfts), tpot_s=fmean(tpots)) if ttfts and tpots else None


def expected_requests(
    plan: BenchPlan, lane: LaneSpec, level: LoadLevel, speeds: Mapping[str, Speed] | None = None
) -> int:
    """Return how many measured requests a point of the lane will have, over all repeats."""
    number = plan.requests_at(level)
    if number is None:
        seconds = plan.seconds or 0.0
        width = 1 if is_serial(lane) else level.concurrency or 1
        served = width / request_s(plan, lane, speeds)
        number = max(1, round(seconds * (level.rate_req_per_s or served)))
    return number * plan.repeats


def is_serial(lane: LaneSpec) -> bool:
    """Whether the lane's engine answers one request after another, however many are sent."""
    return lane.kind is EngineKind.TRANSFORMERS and not lane.settings.continuous_batching


def _pass_s(plan: BenchPlan, lane: LaneSpec, level: LoadLevel, request_s: float) -> float:
    width = 1 if is_serial(lane) else level.concurrency or plan.warmup or 1
    warmup_s = -(-plan.warmup // width) * request_s
    if plan.seconds is not None:
        waiting = (level.concurrency or 1) if is_serial(lane) else 1
        measured_s = plan.seconds + waiting * request_s
    else:
        number = plan.requests_at(level) or 1
        measured_s = -(-number // width) * request_s
        if level.rate_req_per_s is not None:
            busy_s = number * request_s if is_serial(lane) else request_s
            measured_s = max(number / level.rate_req_per_s + request_s, busy_s)
    return warmup_s + measured_s + _PASS_OVERHEAD_S


class Preset(StrEnum):
    QUICK_LOOK = "quick look"
    CHAT = "chat"
    LONG_CONTEXT = "long context"
    THROUGHPUT = "throughput"


_QUICK_LOOK_S = 60.0
_QUICK_SIZES = ((64, (1, 4)), (32, (1, 4)), (32, (1,)), (16, (1,)), (8, (1,)))
"""Output tokens and concurrencies, from the one that tells most to the one that is done soonest."""
_QUICK_TOLERANCE = 1.25
_QUICK_LEAST_S = 3.0
_QUICK_OVERHEAD_S = 2.0
"""Of a pass in a quick look: warm-up, and the answers that are still awaited."""


def preset_plan(
    preset: Preset, lanes: Sequence[LaneSpec], speeds: Mapping[str, Speed] | None = None
) -> BenchPlan:
    """The plan of a preset for these lanes; the quick look adapts to `speeds`, by lane name, where known."""
    match preset:
        case Preset.QUICK_LOOK:
            return _quick_look(lanes, speeds or {})
        case Preset.CHAT:
            return BenchPlan(
                lanes=tuple(lanes),
                workload=Workload(prompt_tokens=512, output_tokens=256),
                load=Load(concurrencies=(1, 2, 4, 8, 16)),
                requests=64,
                repeats=3,
                limits=LIMIT_PRESETS["chat"],
                title=preset,
            )
        case Preset.LONG_CONTEXT:
            return BenchPlan(
                lanes=tuple(lanes),
                workload=Workload(prompt_tokens=3072, output_tokens=128),
                load=Load(concurrencies=(1, 4)),
                requests=32,
                repeats=3,
                title=preset,
            )
        case Preset.THROUGHPUT:
            return BenchPlan(
                lanes=tuple(lanes),
                workload=Workload(prompt_tokens=256, output_tokens=256),
                load=Load(kind=LoadKind.SWEEP, max_concurrency=256),
                requests=32,
                title=preset,
            )


def _quick_look(lanes: Sequence[LaneSpec], speeds: Mapping[str, Speed]) -> BenchPlan:
    """The largest of a few plans that keeps to a minute; the smallest one if none does."""
    plan = _quick_plan(lanes, *_QUICK_SIZES[0])
    for tokens, concurrencies in _QUICK_SIZES:
        plan = _quick_plan(lanes, tokens, concurrencies)
        if speeds and plan.seconds:
            # The warm-up comes before the measured time, and the last answers are waited for after it.
            around_s = 2 * max((request_s(plan, lane, speeds) for lane in lanes), default=0.0)
            plan = replace(plan, seconds=max(_QUICK_LEAST_S, round(plan.seconds - around_s)))
        if not speeds or estimated_s(plan, speeds) <= _QUICK_LOOK_S * _QUICK_TOLERANCE:
            break
    return plan


def _quick_plan(lanes: Sequence[LaneSpec], tokens: int, concurrencies: tuple[int, ...]) -> BenchPlan:
    passes = max(1, len(lanes)) * len(concurrencies)
    return BenchPlan(
        lanes=tuple(lanes),
        workload=Workload(prompt_tokens=2 * tokens, output_tokens=tokens),
        load=Load(concurrencies=concurrencies),
        seconds=max(_QUICK_LEAST_S, round(_QUICK_LOOK_S / passes - _QUICK_OVERHEAD_S)),
        warmup=1,
        title=Preset.QUICK_LOOK,
    )


SEND_FROM_NAMES = {
    SendFrom.HERE: N_("this machine"),
    SendFrom.ENGINE: N_("the engine's node"),
    SendFrom.NODES: N_("all nodes"),
}


@dataclass(frozen=True, slots=True)
class PlanFact:
    """One setting of a plan in words."""

    label: str
    text: str


def described(plan: BenchPlan) -> tuple[PlanFact, ...]:
    """Return what the plan does, one fact per setting, in the reader's language."""
    facts = [
        PlanFact(_("Lanes"), ", ".join(lane.name for lane in plan.lanes)),
        PlanFact(_("Other lanes"), isolation_text(plan)) if len(plan.lanes) > 1 else None,
        PlanFact(_("Prompts"), _prompts(plan.workload)),
        PlanFact(_("Images"), _(with_images(plan.workload))) if plan.workload.images else None,
        PlanFact(_("Answers"), _answers(plan.workload)),
        PlanFact(_("Load"), _load(plan)),
        PlanFact(_("Each point"), _extent(plan)),
        PlanFact(_("Repeats"), f"{plan.repeats:,}") if plan.repeats > 1 else None,
        PlanFact(_("Passes"), _passes(plan)),
        PlanFact(_("Sending processes"), f"{plan.workers:,}") if (plan.workers or 1) > 1 else None,
        PlanFact(_("Sent from"), _(SEND_FROM_NAMES[plan.send_from]))
        if plan.send_from is not SendFrom.HERE
        else None,
    ]
    return tuple(fact for fact in facts if fact is not None)


def with_images(workload: Workload) -> Text:
    """Return what goes with the text of each request, for titles and captions; "" without images."""
    number = len(workload.images)
    if not number:
        return ""
    return N_plural("an image with each request", "one of {n} images with each request", number)


def isolation_text(plan: BenchPlan) -> str:
    """Return what the other lanes do while one is measured."""
    match plan.isolation:
        case Isolation.ISOLATED:
            return _("one lane at a time, the others idle")
        case Isolation.STOPPED:
            return _("one lane at a time, the engines of the others stopped")
        case Isolation.TOGETHER:
            return _("one lane at a time, then all lanes together")


def advice(plan: BenchPlan, *, gpu: bool, speeds: Mapping[str, Speed] | None = None) -> tuple[str, ...]:
    """Return what makes the comparison unfair, or a figure of it meaningless; empty if nothing does.

    `gpu`: an NVIDIA GPU is here. `speeds` by lane name, where they are known.
    """
    return (
        *_serial(plan, speeds or {}),
        *_cpu(plan, gpu=gpu),
        *_few(plan, speeds or {}),
        *unequal(plan),
        *_repeated(plan),
        *_unprepared(plan),
    )


def unequal(plan: BenchPlan) -> tuple[str, ...]:
    """Differences between the lanes, shown before a run and again with its results."""
    flags = fairness.before([RequestPlan(lane=lane, messages=()) for lane in plan.lanes])
    lines = [_("Differs between lanes: {difference}.", difference=f.text) for f in flags if not f.intended]
    if not plan.workload.fixed_output and len(plan.lanes) > 1:
        lines.append(_("Answers may stop early, so lanes may do different amounts of work."))
    return tuple(lines)


def _prompts(workload: Workload) -> str:
    if workload.prompts is PromptKind.SYNTHETIC:
        tokens = workload.prompt_tokens
        return ngettext("synthetic, {n} token", "synthetic, {n} tokens", tokens)
    return (
        _("the example prompts") if workload.prompts is PromptKind.EXAMPLES else _("the prompts of the file")
    )


def _answers(workload: Workload) -> str:
    tokens = workload.output_tokens
    if workload.fixed_output:
        return ngettext("exactly {n} token", "exactly {n} tokens", tokens)
    return ngettext("at most {n} token", "at most {n} tokens", tokens)


def _load(plan: BenchPlan) -> str:
    load = plan.load
    match load.kind:
        case LoadKind.CLOSED:
            levels = ", ".join(f"{level:,}" for level in load.concurrencies)
            return _("concurrency {levels}", levels=levels)
        case LoadKind.OPEN:
            rates = ", ".join(f"{rate:g}" for rate in load.rates_req_per_s)
            if load.arrivals is Arrivals.POISSON:
                return _("{rates} requests per second, Poisson arrivals", rates=rates)
            return _("{rates} requests per second, constant arrivals", rates=rates)
        case LoadKind.SWEEP:
            return _(
                "concurrency 1, 2, 4 … {most} until throughput stops rising", most=f"{load.max_concurrency:,}"
            )


def _extent(plan: BenchPlan) -> str:
    requests = plan.requests or 0
    if plan.seconds is not None and plan.warmup:
        return ngettext(
            "{seconds} s after {n} warm-up request",
            "{seconds} s after {n} warm-up requests",
            plan.warmup,
            seconds=f"{plan.seconds:g}",
        )
    if plan.seconds is not None:
        return _("{seconds} s", seconds=f"{plan.seconds:g}")
    if plan.warmup:
        return _("{requests} requests after {warmup} for warm-up", requests=requests, warmup=plan.warmup)
    return ngettext("{n} request", "{n} requests", requests)


def _passes(plan: BenchPlan) -> str:
    number = sum(1 for _step in steps(plan))
    return _("up to {n}", n=number) if plan.load.kind is LoadKind.SWEEP else f"{number:,}"


def _serial(plan: BenchPlan, speeds: Mapping[str, Speed]) -> list[str]:
    serial = [lane for lane in plan.lanes if is_serial(lane)]
    if plan.load.kind is not LoadKind.OPEN:
        if not serial or all((level.concurrency or 1) == 1 for level in plan.load.levels):
            return []
        names = ", ".join(lane.name for lane in serial)
        return [
            ngettext(
                "{lanes} serves one request at a time; above concurrency 1 the rest queue. Turn on "
                "continuous "
                "batching in the lane's settings to change that.",
                "{lanes} serve one request at a time; above concurrency 1 the rest queue. Turn on continuous "
                "batching in the lanes' settings to change that.",
                len(serial),
                lanes=names,
            )
        ]
    lines = []
    highest = max(plan.load.rates_req_per_s)
    for lane in serial:
        served = 1 / request_s(plan, lane, speeds)
        if highest > served:
            lines.append(
                _(
                    "{lane} serves one request at a time, about {served} per second. At {rate} requests per "
                    "second its queue keeps growing, and TTFT with it.",
                    lane=lane.name,
                    served=f"{served:.2g}",
                    rate=f"{highest:g}",
                )
            )
    return lines


def _cpu(plan: BenchPlan, *, gpu: bool) -> list[str]:
    # Which GPUs a node has is not known here.
    lanes = [
        lane.name
        for lane in plan.lanes
        if lane.is_local and (lane.settings.device == "cpu" or (not gpu and lane.node is None))
    ]
    if not lanes:
        return []
    return [_("{lanes}: measured on a CPU. Not comparable with GPU figures.", lanes=", ".join(lanes))]


def _few(plan: BenchPlan, speeds: Mapping[str, Speed]) -> list[str]:
    fewest = min(
        expected_requests(plan, lane, level, speeds) for lane in plan.lanes for level in plan.load.levels
    )
    if fewest >= P99_MIN_N:
        return []
    return [
        ngettext(
            "About {n} request per point. p95 needs at least {p95} and p99 at least {p99}; below "
            "that they are "
            "shown in grey.",
            "About {n} requests per point. p95 needs at least {p95} and p99 at least {p99}; below that they "
            "are shown in grey.",
            fewest,
            p95=P95_MIN_N,
            p99=P99_MIN_N,
        )
    ]


def _repeated(plan: BenchPlan) -> list[str]:
    """Prompts and images that come again, so that a cache may answer."""
    lines = []
    cached = [lane.name for lane in plan.lanes if not lane.is_local or lane.settings.enable_prefix_caching]
    if plan.workload.prompts in FILE_KINDS | {PromptKind.EXAMPLES} and cached:
        lines.append(
            _(
                "The same prompts are sent repeatedly, and {lanes} may use a prefix cache: TTFT is "
                "then that of "
                "a prompt seen before.",
                lanes=", ".join(cached),
            )
        )
    if plan.workload.images and not plan.workload.vary_images:
        lines.append(
            _(
                "The same images are sent repeatedly, and an engine may cache them: TTFT is then that of "
                "an image seen before."
            )
        )
    return lines


def _unprepared(plan: BenchPlan) -> list[str]:
    """Return what the plan can't arrange."""
    lines = []
    remote = [lane.name for lane in plan.lanes if not lane.is_local]
    if plan.isolation is Isolation.STOPPED and remote:
        lines.append(_("{lanes}: a remote engine, which LMDyno can't stop.", lanes=", ".join(remote)))
    if not plan.warmup:
        lines.append(
            _("Without warm-up, one-time work of an engine counts towards the first request's latency.")
        )
    return lines
