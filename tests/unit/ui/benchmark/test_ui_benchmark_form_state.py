from dataclasses import replace

import pytest

from core.bench.passes import Preset, preset_plan
from core.bench.plan import (
    Arrivals,
    Isolation,
    Limits,
    Load,
    LoadKind,
    PromptKind,
    Workload,
)
from core.errors import InputError
from core.ui.benchmark.form_state import (
    OWN_LIMITS,
    Extent,
    PlanFields,
    Prompts,
    fields_of,
    plan_of,
    preset_of,
)
from tests.unit.bench.bench_samples import A, B, a_plan

FIELDS = PlanFields()


@pytest.mark.parametrize("preset", Preset)
def test_a_preset_comes_back_from_its_fields(preset):
    plan = preset_plan(preset, (A, B))
    again = plan_of(fields_of(plan), (A, B), None)
    assert replace(again, id=plan.id, created_at=plan.created_at) == plan


@pytest.mark.parametrize(
    "changes",
    [
        {"load": Load(kind=LoadKind.OPEN, rates_req_per_s=(0.1, 2, 1e-5), arrivals=Arrivals.CONSTANT)},
        {"load": Load(kind=LoadKind.SWEEP, max_concurrency=9), "isolation": Isolation.TOGETHER},
        {"limits": Limits(ttft_s=0.125, e2e_s=1e-4), "title": "mine", "seed": 3, "repeats": 2, "workers": 3},
        {"workload": Workload(prompts=PromptKind.EXAMPLES, output_tokens=9, fixed_output=False)},
        {"workload": Workload(prompts=PromptKind.JSONL, path="/kept/a.jsonl")},
    ],
)
def test_a_plan_of_one_s_own_comes_back_from_its_fields(changes):
    plan = a_plan(**changes)
    again = plan_of(fields_of(plan), (A, B), plan.workload if plan.workload.path else None)
    assert replace(again, id=plan.id, created_at=plan.created_at) == plan


def test_a_preset_is_known_by_its_fields():
    plan = preset_plan(Preset.CHAT, (A, B))
    assert preset_of(plan) is Preset.CHAT
    assert preset_of(replace(plan, seed=4)) is None


def test_each_field_reaches_the_plan():
    fields = PlanFields(
        prompts=Prompts.EXAMPLES,
        output_tokens=7,
        fixed_output=False,
        load=LoadKind.OPEN,
        rates="0.5, 2",
        arrivals=Arrivals.CONSTANT,
        extent=Extent.SECONDS,
        seconds=12.5,
        warmup=0,
        repeats=3,
        isolation=Isolation.TOGETHER,
        seed=9,
        limits=OWN_LIMITS,
        own_limits="e2e=3",
        workers=4,
        title=" mine ",
    )
    plan = plan_of(fields, (B, A), None)
    assert [lane.name for lane in plan.lanes] == ["b", "a"]
    assert plan.workload.prompts is PromptKind.EXAMPLES
    assert (plan.workload.output_tokens, plan.workload.fixed_output) == (7, False)
    assert (plan.load.rates_req_per_s, plan.load.arrivals) == ((0.5, 2.0), Arrivals.CONSTANT)
    assert (plan.requests, plan.seconds) == (None, 12.5)
    assert (plan.warmup, plan.repeats, plan.seed, plan.workers, plan.title) == (0, 3, 9, 4, "mine")
    assert (plan.isolation, plan.limits) == (Isolation.TOGETHER, Limits(e2e_s=3))


def test_one_lane_alone_shares_with_nobody():
    assert plan_of(replace(FIELDS, isolation=Isolation.TOGETHER), (A,), None).isolation is Isolation.ISOLATED


def test_a_file_goes_with_the_other_fields_of_the_workload():
    file = Workload(prompts=PromptKind.JSONL, path="/kept/a.jsonl")
    fields = replace(FIELDS, prompts=Prompts.FILE, output_tokens=9)
    workload = plan_of(fields, (A,), file).workload
    assert (workload.prompts, workload.path, workload.output_tokens) == (PromptKind.JSONL, "/kept/a.jsonl", 9)
    assert plan_of(FIELDS, (A,), file).workload.path is None


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"concurrencies": "1, x"}, "must be a list of numbers"),
        ({"concurrencies": "0"}, "concurrency is 0"),
        ({"concurrencies": "64"}, "can't reach concurrency 64"),
        ({"load": LoadKind.OPEN, "rates": "-1"}, "can't be -1 requests per second"),
        ({"limits": OWN_LIMITS, "own_limits": "soon"}, "is not a goodput limit"),
        ({"prompts": Prompts.FILE}, "No prompt file is chosen"),
    ],
)
def test_a_mistake_is_an_input_error(changes, said):
    with pytest.raises(InputError, match=said):
        plan_of(replace(FIELDS, **changes), (A,), None)


def test_without_a_lane_there_is_no_plan():
    with pytest.raises(InputError, match="No lane is selected"):
        plan_of(FIELDS, (), None)
