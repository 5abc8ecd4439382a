"""Values of a plan from what people type or name: ready-made limits and plans, and texts that are parsed.

Pages and the command line offer the same names and take the same texts. Every mistake is an InputError that
says what is allowed.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from enum import StrEnum
from pathlib import PurePath

from core.bench.passes import Speed, estimated_s, request_s
from core.bench.plan import BenchPlan, Limits, Load, LoadKind, PromptKind, Workload
from core.domain.specs import LaneSpec
from core.errors import InputError
from core.i18n import N_

LIMIT_PRESETS: Mapping[str, Limits] = {
    "chat": Limits(ttft_s=0.2, tpot_s=0.05),
    "mlperf-conversational": Limits(ttft_s=2.0, tpot_s=0.1),
    "mlperf-interactive": Limits(ttft_s=0.5, tpot_s=0.03),
    "mlperf-70b-conversational": Limits(ttft_s=2.0, tpot_s=0.2),
    "mlperf-70b-interactive": Limits(ttft_s=0.45, tpot_s=0.04),
}
"""`chat` is GuideLLM's example of a chat's limits; the others are those of MLPerf Inference's Server scenario
for Llama 3.1 8B and Llama 2 70B, which MLPerf asks of the 99th percentile."""


class Preset(StrEnum):
    QUICK_LOOK = "quick look"
    CHAT = "chat"
    LONG_CONTEXT = "long context"
    THROUGHPUT = "throughput"


_QUICK_LOOK_S = 60.0
_QUICK_SIZES = ((64, (1, 4)), (32, (1, 4)), (32, (1,)), (16, (1,)), (8, (1,)))
"""Output tokens and concurrencies, from the one that tells most to the one that is done soonest."""
_TOLERANCE = 1.25
_LEAST_S = 3.0
_OVERHEAD_S = 2.0
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
            plan = replace(plan, seconds=max(_LEAST_S, round(plan.seconds - around_s)))
        if not speeds or estimated_s(plan, speeds) <= _QUICK_LOOK_S * _TOLERANCE:
            break
    return plan


def _quick_plan(lanes: Sequence[LaneSpec], tokens: int, concurrencies: tuple[int, ...]) -> BenchPlan:
    passes = max(1, len(lanes)) * len(concurrencies)
    return BenchPlan(
        lanes=tuple(lanes),
        workload=Workload(prompt_tokens=2 * tokens, output_tokens=tokens),
        load=Load(concurrencies=concurrencies),
        seconds=max(_LEAST_S, round(_QUICK_LOOK_S / passes - _OVERHEAD_S)),
        warmup=1,
        title=Preset.QUICK_LOOK,
    )


def parse_limits(text: str) -> Limits:
    """Limits as the command line takes them: `ttft=0.5,tpot=0.03` in seconds, or a preset's name."""
    if text in LIMIT_PRESETS:
        return LIMIT_PRESETS[text]
    values: dict[str, float] = {}
    for part in text.split(","):
        name, separator, number = part.partition("=")
        try:
            seconds = float(number)
        except ValueError:
            seconds = -1.0
        if name.strip() not in ("ttft", "tpot", "e2e") or not separator or not 0 < seconds < math.inf:
            raise InputError(
                N_("“{text}” is not a goodput limit.", text=part),
                hint=N_(
                    "Write limits in seconds, such as ttft=0.5,tpot=0.03,e2e=10, or use a preset: {names}.",
                    names=", ".join(LIMIT_PRESETS),
                ),
            )
        values[f"{name.strip()}_s"] = seconds
    return Limits(**values)


_KINDS = {
    "": PromptKind.TEXT,
    ".txt": PromptKind.TEXT,
    ".text": PromptKind.TEXT,
    ".jsonl": PromptKind.JSONL,
    ".ndjson": PromptKind.JSONL,
    ".json": PromptKind.SHAREGPT,
    ".csv": PromptKind.CSV,
    ".tsv": PromptKind.CSV,
}
PROMPT_ENDINGS = tuple(ending.removeprefix(".") for ending in _KINDS if ending)


def parse_numbers(name: str, text: str) -> tuple[float, ...]:
    """`1, 2.5, 4` as numbers; `name` says in the error what they are."""
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError:
        values = (math.nan,)
    if not all(map(math.isfinite, values)):
        raise InputError(
            N_("{name} must be a list of numbers, not “{text}”.", name=name, text=text),
            hint=N_("Enter a list such as 1,4,16."),
        )
    return values


def parse_whole_numbers(name: str, text: str) -> tuple[int, ...]:
    """`1, 4, 16` as whole numbers."""
    values = parse_numbers(name, text)
    if any(value % 1 for value in values):
        raise InputError(
            N_("{name} must be a list of whole numbers, not “{text}”.", name=name, text=text),
            hint=N_("Enter a list such as 1,4,16."),
        )
    return tuple(int(value) for value in values)


def prompt_kind(file_name: str) -> PromptKind:
    """Return how a prompt file is read, by its ending. Raises InputError (`prompt-file`) for one that is
    unknown.
    """
    ending = PurePath(file_name).suffix.lower()
    if ending not in _KINDS:
        raise InputError(
            N_("Can't tell from the ending {ending} how to read the prompts.", ending=ending),
            hint=N_("Known endings: {endings}.", endings=", ".join(filter(None, _KINDS))),
            code="prompt-file",
        )
    return _KINDS[ending]
