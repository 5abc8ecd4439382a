from dataclasses import replace
from itertools import islice, pairwise

import pytest

from core.bench.passes import (
    Preset,
    Speed,
    Step,
    SweepProgress,
    advice,
    described,
    estimated_s,
    preset_plan,
    saturation,
    steps,
)
from core.bench.plan import Arrivals, Isolation, Load, LoadKind, PromptKind, Workload
from core.bench.run.load import arrivals
from core.domain.runs import LoadLevel
from core.domain.specs import EngineSettings
from tests.unit.bench.bench_samples import HF, A, B, a_plan, remote


def order(plan):
    return ["+".join(step.group) + str(step.level.concurrency) for step in steps(plan)]


def test_the_lanes_order_alternates_between_repeats():
    plan = a_plan(A, B, repeats=4)
    assert order(plan) == ["a1", "b1", "b1", "a1", "a1", "b1", "b1", "a1"]


def test_lanes_are_compared_level_by_level():
    plan = a_plan(A, B, load=Load(concurrencies=(1, 2)), requests=8)
    assert order(plan) == ["a1", "b1", "a2", "b2"]


def test_with_engines_stopped_each_lane_is_loaded_once_a_repeat():
    plan = a_plan(A, B, load=Load(concurrencies=(1, 2)), isolation=Isolation.STOPPED, repeats=2)
    assert order(plan) == ["a1", "a2", "b1", "b2", "b1", "b2", "a1", "a2"]


def test_together_measures_every_lane_alone_too():
    assert order(a_plan(A, B, isolation=Isolation.TOGETHER)) == ["a1", "b1", "a+b1"]


def sweep_of(speeds, repeats=1):
    plan = a_plan(A, load=Load(kind=LoadKind.SWEEP, max_concurrency=32), repeats=repeats)
    progress, done = SweepProgress(plan), []
    for step in steps(plan):
        if progress.wanted(step):
            done.append((step.repeat, step.level.concurrency))
            progress.reached(step, speeds.get(step.level.concurrency))
    return done


def test_a_sweep_ends_where_more_load_brings_no_more_tokens():
    speeds = {1: 100.0, 2: 190.0, 4: 300.0, 8: 305.0, 16: 310.0, 32: 310.0}
    assert sweep_of(speeds, repeats=2) == [(0, 1), (0, 2), (0, 4), (0, 8), (1, 1), (1, 2), (1, 4), (1, 8)]


def test_a_sweep_ends_where_nothing_is_answered():
    assert sweep_of({1: 100.0}) == [(0, 1), (0, 2)]


def test_a_plan_without_a_sweep_leaves_nothing_out():
    progress = SweepProgress(a_plan(A))
    step = Step(0, ("a",), LoadLevel(concurrency=1))
    progress.reached(step, 0.0)
    assert progress.wanted(step)


def test_saturation_is_the_least_load_with_nearly_all_the_speed():
    assert saturation({1: 100.0, 2: 190.0, 4: 296.0, 8: 305.0, 16: 290.0}) == 4
    assert saturation({1: 100.0}) is None
    assert saturation({1: 0.0, 2: 0.0}) is None


def test_a_constant_schedule_is_even():
    assert list(islice(arrivals(Arrivals.CONSTANT, 4.0, seed=1), 4)) == [0.0, 0.25, 0.5, 0.75]


def test_a_poisson_schedule_has_its_rate_and_is_repeatable():
    offsets = list(islice(arrivals(Arrivals.POISSON, 50.0, seed=3), 5001))
    assert offsets == list(islice(arrivals(Arrivals.POISSON, 50.0, seed=3), 5001))
    assert offsets != list(islice(arrivals(Arrivals.POISSON, 50.0, seed=4), 5001))
    assert offsets == sorted(offsets)
    assert 5000 / offsets[-1] == pytest.approx(50, rel=0.05)
    gaps = [later - earlier for earlier, later in pairwise(offsets)]
    mean = sum(gaps) / len(gaps)
    spread = (sum((gap - mean) ** 2 for gap in gaps) / len(gaps)) ** 0.5
    assert spread == pytest.approx(mean, rel=0.1)  # exponential gaps: deviation equals mean


GPU = replace(HF, name="gpu", settings=EngineSettings())
PLENTY = {"requests": 200}


def facts_of(plan):
    return {fact.label: fact.text for fact in described(plan)}


def told(plan, *, gpu=True, **options):
    return "\n".join(advice(plan, gpu=gpu, **options))


def test_a_plan_setting_by_setting():
    plan = a_plan(A, B, load=Load(concurrencies=(1, 2, 4)), repeats=3, warmup=1)
    assert facts_of(plan) == {
        "Lanes": "a, b",
        "Other lanes": "one lane at a time, the others idle",
        "Prompts": "synthetic, 32 tokens",
        "Answers": "exactly 11 tokens",
        "Load": "concurrency 1, 2, 4",
        "Each point": "4 requests after 1 for warm-up",
        "Repeats": "3",
        "Passes": "18",
    }


def test_facts_follow_the_plan():
    poisson = Load(kind=LoadKind.OPEN, rates_req_per_s=(0.5,), arrivals=Arrivals.POISSON)
    plan = a_plan(A, load=poisson, requests=None, seconds=30, workload=Workload(prompts=PromptKind.EXAMPLES))
    facts = facts_of(plan)
    assert facts["Load"] == "0.5 requests per second, Poisson arrivals"
    assert facts["Prompts"] == "the example prompts"
    assert facts["Each point"] == "30 s after 2 warm-up requests"
    sweep = a_plan(A, B, load=Load(kind=LoadKind.SWEEP), isolation=Isolation.TOGETHER)
    assert facts_of(sweep)["Passes"] == "up to 21"
    assert facts_of(sweep)["Other lanes"] == "one lane at a time, then all lanes together"


def test_several_processes_are_named():
    assert facts_of(a_plan(A, workers=4))["Sending processes"] == "4"
    assert "Sending processes" not in facts_of(a_plan(A, workers=1))


def test_nothing_speaks_against_a_fair_plan():
    assert advice(a_plan(A, B, **PLENTY), gpu=True) == ()


def test_transformers_without_batching_only_queues():
    plan = a_plan(GPU, load=Load(concurrencies=(1, 4)), **PLENTY)
    assert "gpu serves one request at a time" in told(plan)
    alone = a_plan(GPU, load=Load(concurrencies=(1,)), **PLENTY)
    assert told(alone) == ""
    batching = replace(GPU, settings=EngineSettings(continuous_batching=True))
    assert told(a_plan(batching, load=Load(concurrencies=(1, 4)), **PLENTY)) == ""


def test_a_rate_that_a_serial_lane_can_not_keep_is_foretold():
    load = Load(kind=LoadKind.OPEN, rates_req_per_s=(2.0,))
    plan = a_plan(GPU, load=load, **PLENTY)
    slow, fast = ({"gpu": Speed(ttft_s=ttft_s, tpot_s=0.0)} for ttft_s in (1.0, 0.1))
    assert "about 1 per second. At 2 requests per second its queue keeps growing" in told(plan, speeds=slow)
    assert told(plan, speeds=fast) == ""


def test_a_cpu_says_nothing_of_a_gpu():
    assert "hf: measured on a CPU" in told(a_plan(HF, **PLENTY))
    assert "gpu: measured on a CPU" in told(a_plan(GPU, **PLENTY), gpu=False)


def test_percentiles_of_too_few_requests_are_named():
    assert "About 4 requests per point. p95 needs at least 30 and p99 at least 100" in told(a_plan(A))
    assert "About 40 requests per point." in told(a_plan(A, requests=20, repeats=2))
    timed = a_plan(A, requests=None, seconds=10)
    assert "About 10 requests" in told(timed, speeds={"a": Speed(ttft_s=1.0, tpot_s=0.0)})


def test_what_the_lanes_do_not_share_is_named():
    other = replace(B, endpoint=replace(B.endpoint, model="other"))
    assert "Differs between lanes: model" in told(a_plan(A, other, **PLENTY))
    natural = Workload(fixed_output=False)
    assert "different amounts of work" in told(a_plan(A, B, workload=natural, **PLENTY))
    repeated = Workload(prompts=PromptKind.EXAMPLES)
    assert "may use a prefix cache" in told(a_plan(A, workload=repeated, **PLENTY))
    assert "prefix cache" not in told(a_plan(GPU, workload=repeated, **PLENTY))
    assert "Without warm-up" in told(a_plan(A, warmup=0, **PLENTY))
    assert "which LMDyno can't stop" in told(a_plan(A, remote("c"), isolation=Isolation.STOPPED, **PLENTY))


def test_the_quick_look_keeps_to_a_minute_on_slow_lanes():
    slow = {name: Speed(ttft_s=3.0, tpot_s=0.5) for name in "ab"}
    plan = preset_plan(Preset.QUICK_LOOK, [A, B], slow)
    assert estimated_s(plan, slow) <= 75
    assert plan.workload.output_tokens < preset_plan(Preset.QUICK_LOOK, [A, B]).workload.output_tokens


def test_the_quick_look_is_as_large_as_fast_lanes_allow():
    fast = {name: Speed(ttft_s=0.01, tpot_s=0.005) for name in "ab"}
    assert (
        preset_plan(Preset.QUICK_LOOK, [A, B], fast).workload
        == preset_plan(Preset.QUICK_LOOK, [A, B]).workload
    )


def test_nothing_is_smaller_than_the_smallest_quick_look():
    hopeless = {"a": Speed(ttft_s=300.0, tpot_s=60.0)}
    plan = preset_plan(Preset.QUICK_LOOK, [A], hopeless)
    assert (plan.workload.output_tokens, plan.load.concurrencies) == (8, (1,))
