"""Ready-made limits and plans, each under the name that a page or the command line offers."""

import math
from collections.abc import Mapping, Sequence
from enum import StrEnum

from core.bench.planning.plan import BenchPlan, Limits, Load, LoadKind, Workload
from core.domain.specs import LaneSpec
from core.errors import InputError

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
_QUICK_CONCURRENCIES = (1, 4)
_OVERHEAD_S = 2.0
"""Of a pass in a quick look: warm-up, and the answers that are still awaited."""


def preset_plan(preset: Preset, lanes: Sequence[LaneSpec]) -> BenchPlan:
    """The plan of a preset for these lanes."""
    match preset:
        case Preset.QUICK_LOOK:
            passes = max(1, len(lanes)) * len(_QUICK_CONCURRENCIES)
            return BenchPlan(
                lanes=tuple(lanes),
                workload=Workload(prompt_tokens=128, output_tokens=64),
                load=Load(concurrencies=_QUICK_CONCURRENCIES),
                seconds=max(3.0, round(_QUICK_LOOK_S / passes - _OVERHEAD_S)),
                warmup=1,
                title=preset,
            )
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
                f"{part!r} is no limit of goodput",
                hint=f"Write ttft=0.5,tpot=0.03,e2e=10 in seconds, or one of: {', '.join(LIMIT_PRESETS)}.",
            )
        values[f"{name.strip()}_s"] = seconds
    return Limits(**values)
