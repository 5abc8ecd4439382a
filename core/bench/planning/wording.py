"""A plan in words: what it will do, and what makes its figures mean less than they seem to."""

from collections.abc import Mapping, Sequence

from core.bench.planning.estimate import Speed, expected_requests, is_serial, request_s
from core.bench.planning.passes import steps
from core.bench.planning.plan import (
    FILE_KINDS,
    Arrivals,
    BenchPlan,
    Isolation,
    LoadKind,
    PromptKind,
    Workload,
)
from core.bench.statistics import P95_MIN_N, P99_MIN_N
from core.domain import fairness
from core.domain.turns import RequestPlan


def described(plan: BenchPlan) -> str:
    """What the plan does, in one sentence."""
    passes = sum(1 for _ in steps(plan))
    most = "up to " if plan.load.kind is LoadKind.SWEEP else ""
    parts = [
        f"Measures {_joined([lane.name for lane in plan.lanes])}{_isolation(plan)} with {_prompts(plan)}"
        f"{_images(plan)} and {_answers(plan)}",
        _load(plan),
        _extent(plan),
    ]
    warmup = f", after {_number(plan.warmup, 'warm-up request')} each" if plan.warmup else ""
    repeats = f", all of it {plan.repeats} times" if plan.repeats > 1 else ""
    return f"{', '.join(parts)}{warmup}{repeats}: {most}{_number(passes, 'pass', 'passes')}."


def with_images(workload: Workload) -> str:
    """What goes with the text of each request, for titles and captions; "" without images."""
    number = len(workload.images)
    if not number:
        return ""
    return "an image with each request" if number == 1 else f"one of {number} images with each request"


def advice(plan: BenchPlan, *, gpu: bool, speeds: Mapping[str, Speed] | None = None) -> tuple[str, ...]:
    """What makes the comparison unfair, or a figure of it meaningless; empty if nothing does.

    `gpu`: an NVIDIA GPU is here. `speeds` by lane name, where they are known.
    """
    return (*_serial(plan, speeds or {}), *_cpu(plan, gpu=gpu), *_few(plan, speeds or {}), *_unequal(plan))


def _isolation(plan: BenchPlan) -> str:
    if len(plan.lanes) == 1:
        return ""
    match plan.isolation:
        case Isolation.ISOLATED:
            return " one at a time, the others idle,"
        case Isolation.STOPPED:
            return " one at a time, the engines of the others stopped,"
        case Isolation.TOGETHER:
            return " first one at a time, then all at once,"


def _prompts(plan: BenchPlan) -> str:
    workload = plan.workload
    if workload.prompts is PromptKind.SYNTHETIC:
        return f"made-up prompts of {_number(workload.prompt_tokens, 'token')}"
    return "the example prompts" if workload.prompts is PromptKind.EXAMPLES else "the prompts of the file"


def _images(plan: BenchPlan) -> str:
    said = with_images(plan.workload)
    return f", {said}," if said else ""


def _answers(plan: BenchPlan) -> str:
    tokens = _number(plan.workload.output_tokens, "token")
    return f"answers of {'exactly' if plan.workload.fixed_output else 'at most'} {tokens}"


def _load(plan: BenchPlan) -> str:
    load = plan.load
    match load.kind:
        case LoadKind.CLOSED:
            return f"at concurrency {_joined([f'{level:,}' for level in load.concurrencies])}"
        case LoadKind.OPEN:
            rates = _joined([f"{rate:g}" for rate in load.rates_req_per_s])
            how = "at random (Poisson)" if load.arrivals is Arrivals.POISSON else "in even steps"
            return f"{rates} requests a second {how}, whether or not earlier ones are answered"
        case LoadKind.SWEEP:
            return f"at concurrency 1, 2, 4 … {load.max_concurrency:,} until more of it brings no more speed"


def _extent(plan: BenchPlan) -> str:
    if plan.seconds is not None:
        return f"for {plan.seconds:g} s each"
    return f"{_number(plan.requests or 0, 'request')} each"


def _serial(plan: BenchPlan, speeds: Mapping[str, Speed]) -> list[str]:
    found = []
    for lane in plan.lanes:
        if not is_serial(lane):
            continue
        if plan.load.kind is LoadKind.OPEN:
            highest = max(plan.load.rates_req_per_s)
            most = 1 / request_s(plan, lane, speeds)
            if highest > most:
                found.append(
                    f"{lane.name} answers one request after another, about {most:.2g} a second: at "
                    f"{highest:g} its queue only grows, and TTFT with it."
                )
        elif any((level.concurrency or 1) > 1 for level in plan.load.levels):
            found.append(
                f"{lane.name} answers one request after another, so above concurrency 1 its requests only "
                "wait: continuous batching, a setting of the lane, serves them at once."
            )
    return found


def _cpu(plan: BenchPlan, *, gpu: bool) -> list[str]:
    lanes = [lane.name for lane in plan.lanes if lane.is_local and (not gpu or lane.settings.device == "cpu")]
    if not lanes:
        return []
    runs = "runs" if len(lanes) == 1 else "run"
    return [f"{_joined(lanes)} {runs} on the CPU: these figures say nothing about a GPU."]


def _few(plan: BenchPlan, speeds: Mapping[str, Speed]) -> list[str]:
    fewest = min(
        expected_requests(plan, lane, level, speeds) for lane in plan.lanes for level in plan.load.levels
    )
    if fewest >= P99_MIN_N:
        return []
    tail = f"p95 needs {P95_MIN_N} and p99 {P99_MIN_N}" if fewest < P95_MIN_N else f"p99 needs {P99_MIN_N}"
    about = "about " if plan.seconds is not None else ""
    return [f"A point has {about}{_number(fewest, 'request')}: {tail} to mean anything, and is greyed below."]


def _unequal(plan: BenchPlan) -> list[str]:
    flags = fairness.before([RequestPlan(lane=lane, messages=()) for lane in plan.lanes])
    found = [f"Not the same in all lanes: {flag.text}." for flag in flags if not flag.intended]
    if not plan.workload.fixed_output and len(plan.lanes) > 1:
        found.append("Answers end by themselves, so the lanes may do different amounts of work.")
    repeated = plan.workload.prompts in FILE_KINDS | {PromptKind.EXAMPLES}
    cached = [lane.name for lane in plan.lanes if not lane.is_local or lane.settings.enable_prefix_caching]
    if repeated and cached:
        may = "keeps" if all(lane.is_local for lane in plan.lanes if lane.name in cached) else "may keep"
        found.append(
            f"The same prompts come again and again, and {_joined(cached)} {may} a prefix cache: TTFT is "
            "then that of a prompt seen before."
        )
    if plan.workload.images and not plan.workload.vary_images:
        found.append(
            "The same images come again and again: an engine may keep what it made of them, and TTFT is "
            "then that of an image seen before."
        )
    remote = [lane.name for lane in plan.lanes if not lane.is_local]
    if plan.isolation is Isolation.STOPPED and remote:
        found.append(f"{_joined(remote)}: somebody else's engine, which can't be stopped from here.")
    if not plan.warmup:
        found.append("Without warm-up, what an engine does only once counts as the first request's latency.")
    return found


def _joined(names: Sequence[str]) -> str:
    return " and ".join(part for part in (", ".join(names[:-1]), names[-1]) if part)


def _number(value: int, what: str, several: str = "") -> str:
    return f"{value:,} {what if value == 1 else several or what + 's'}"
