"""From the fields of the benchmark's form to a plan, and from a preset to the fields. No Streamlit."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from core.bench.planning.plan import (
    Arrivals,
    BenchPlan,
    Isolation,
    Limits,
    Load,
    LoadKind,
    PromptKind,
    SendFrom,
    Workload,
)
from core.bench.planning.presets import (
    LIMIT_PRESETS,
    Preset,
    parse_limits,
    parse_numbers,
    parse_whole_numbers,
    preset_plan,
)
from core.domain.specs import LaneSpec
from core.errors import InputError
from core.i18n import N_

NO_LIMITS = "none"
OWN_LIMITS = "own"


class Prompts(StrEnum):
    """Sources of prompts in the form."""

    SYNTHETIC = "synthetic"
    EXAMPLES = "examples"
    FILE = "file"


_PROMPTS = {PromptKind.SYNTHETIC: Prompts.SYNTHETIC, PromptKind.EXAMPLES: Prompts.EXAMPLES}
"""The form's word for a plan's kind; all other kinds come from a file."""


class Extent(StrEnum):
    """Conditions that end a point."""

    REQUESTS = "requests"
    SECONDS = "seconds"


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanFields:
    """Values of the form's fields; each has a widget of its own, shown or not."""

    prompts: Prompts = Prompts.SYNTHETIC
    prompt_tokens: int = 128
    output_tokens: int = 128
    fixed_output: bool = True
    load: LoadKind = LoadKind.CLOSED
    concurrencies: str = "1"
    rates: str = "1"
    arrivals: Arrivals = Arrivals.POISSON
    max_concurrency: int = 64
    extent: Extent = Extent.REQUESTS
    requests: int = 32
    seconds: float = 30.0
    warmup: int = 2
    repeats: int = 1
    isolation: Isolation = Isolation.ISOLATED
    seed: int = 0
    limits: str = NO_LIMITS
    """`NO_LIMITS`, the name of a preset, or `OWN_LIMITS`."""
    own_limits: str = "ttft=0.5,tpot=0.05"
    workers: int | None = None
    """Processes that send the requests; None is automatic."""
    send_from: SendFrom = SendFrom.HERE
    title: str = ""


def fields_of(plan: BenchPlan) -> PlanFields:
    """The fields that make this plan; the prompt file itself and images are not among them."""
    load, workload = plan.load, plan.workload
    fields = PlanFields(
        prompts=_PROMPTS.get(workload.prompts, Prompts.FILE),
        prompt_tokens=workload.prompt_tokens,
        output_tokens=workload.output_tokens,
        fixed_output=workload.fixed_output,
        load=load.kind,
        concurrencies=", ".join(f"{level}" for level in load.concurrencies),
        max_concurrency=load.max_concurrency,
        extent=Extent.REQUESTS if plan.requests is not None else Extent.SECONDS,
        warmup=plan.warmup,
        repeats=plan.repeats,
        isolation=plan.isolation,
        seed=plan.seed,
        workers=plan.workers,
        send_from=plan.send_from,
        title=plan.title,
    )
    if load.kind is LoadKind.OPEN:
        rates = ", ".join(f"{rate!r}".removesuffix(".0") for rate in load.rates_req_per_s)
        fields = replace(fields, rates=rates, arrivals=load.arrivals)
    if plan.limits is not None:
        fields = _with_limits(fields, plan.limits)
    if plan.requests is not None:
        fields = replace(fields, requests=plan.requests)
    if plan.seconds is not None:
        fields = replace(fields, seconds=plan.seconds)
    return fields


def preset_of(plan: BenchPlan) -> Preset | None:
    """The preset that makes the same fields for the plan's lanes; None for a plan of one's own."""
    fields = fields_of(plan)
    return next((preset for preset in Preset if fields_of(preset_plan(preset, plan.lanes)) == fields), None)


def _with_limits(fields: PlanFields, limits: Limits) -> PlanFields:
    for name, preset in LIMIT_PRESETS.items():
        if preset == limits:
            return replace(fields, limits=name)
    given = {"ttft": limits.ttft_s, "tpot": limits.tpot_s, "e2e": limits.e2e_s}
    own = ",".join(f"{name}={seconds!r}" for name, seconds in given.items() if seconds is not None)
    return replace(fields, limits=OWN_LIMITS, own_limits=own)


def plan_of(fields: PlanFields, lanes: Sequence[LaneSpec], file: Workload | None) -> BenchPlan:
    """The plan of the form, the first of the lanes the baseline; raises InputError.

    `file` names the prompt file that was uploaded, if there is one.
    """
    has_number = fields.extent is Extent.REQUESTS
    return BenchPlan(
        lanes=tuple(lanes),
        workload=_workload(fields, file),
        load=_load(fields),
        requests=fields.requests if has_number else None,
        seconds=None if has_number else fields.seconds,
        warmup=fields.warmup,
        repeats=fields.repeats,
        isolation=fields.isolation if len(lanes) > 1 else Isolation.ISOLATED,
        seed=fields.seed,
        limits=_limits(fields),
        workers=fields.workers,
        send_from=fields.send_from,
        title=fields.title.strip(),
    )


def _workload(fields: PlanFields, file: Workload | None) -> Workload:
    workload = Workload(
        prompts=PromptKind.EXAMPLES if fields.prompts is Prompts.EXAMPLES else PromptKind.SYNTHETIC,
        prompt_tokens=fields.prompt_tokens,
        output_tokens=fields.output_tokens,
        fixed_output=fields.fixed_output,
    )
    if fields.prompts is not Prompts.FILE:
        return workload
    if file is None:
        raise InputError(
            N_("No prompt file is chosen."),
            hint=N_("Upload a text, JSONL, or ShareGPT-style JSON file, or choose other prompts."),
        )
    return replace(workload, prompts=file.prompts, path=file.path)


def _load(fields: PlanFields) -> Load:
    match fields.load:
        case LoadKind.CLOSED:
            return Load(concurrencies=parse_whole_numbers(N_("Concurrency"), fields.concurrencies))
        case LoadKind.OPEN:
            rates = parse_numbers(N_("Requests per second"), fields.rates)
            return Load(kind=LoadKind.OPEN, rates_req_per_s=rates, arrivals=fields.arrivals)
        case LoadKind.SWEEP:
            return Load(kind=LoadKind.SWEEP, max_concurrency=fields.max_concurrency)


def _limits(fields: PlanFields) -> Limits | None:
    if fields.limits == NO_LIMITS:
        return None
    return parse_limits(fields.own_limits if fields.limits == OWN_LIMITS else fields.limits)
