"""Describe a plan: what it will do, and what makes its figures mean less than they seem to."""

from collections.abc import Mapping
from dataclasses import dataclass

from core.bench.planning.passes import Speed, expected_requests, is_serial, request_s, steps
from core.bench.planning.plan import (
    FILE_KINDS,
    Arrivals,
    BenchPlan,
    Isolation,
    LoadKind,
    PromptKind,
    SendFrom,
    Workload,
)
from core.bench.statistics import P95_MIN_N, P99_MIN_N
from core.domain import fairness
from core.domain.turns import RequestPlan
from core.i18n import N_, N_plural, Text, _, ngettext

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
