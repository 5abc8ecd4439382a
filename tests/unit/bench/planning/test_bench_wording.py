from dataclasses import replace

from core.bench.planning.estimate import Speed
from core.bench.planning.plan import Arrivals, Isolation, Load, LoadKind, PromptKind, Workload
from core.bench.planning.wording import advice, described
from core.domain.specs import EngineSettings
from tests.unit.bench.bench_samples import HF, A, B, a_plan, remote

GPU = replace(HF, name="gpu", settings=EngineSettings())
PLENTY = {"requests": 200}


def told(plan, *, gpu=True, **options):
    return "\n".join(advice(plan, gpu=gpu, **options))


def test_a_plan_in_one_sentence():
    plan = a_plan(A, B, load=Load(concurrencies=(1, 2, 4)), repeats=3, warmup=1)
    assert described(plan) == (
        "Measures a and b one at a time, the others idle, with made-up prompts of 32 tokens and answers of "
        "exactly 11 tokens, at concurrency 1, 2 and 4, 4 requests each, after 1 warm-up request each, "
        "all of it 3 times: 18 passes."
    )


def test_a_sentence_says_what_differs():
    poisson = Load(kind=LoadKind.OPEN, rates_req_per_s=(0.5,), arrivals=Arrivals.POISSON)
    plan = a_plan(A, load=poisson, requests=None, seconds=30, workload=Workload(prompts=PromptKind.EXAMPLES))
    assert "0.5 requests a second at random (Poisson)" in described(plan)
    assert "the example prompts" in described(plan)
    assert "for 30 s each" in described(plan)
    sweep = a_plan(A, B, load=Load(kind=LoadKind.SWEEP), isolation=Isolation.TOGETHER)
    assert described(sweep).endswith("up to 21 passes.")
    assert "first one at a time, then all at once" in described(sweep)


def test_nothing_speaks_against_a_fair_plan():
    assert advice(a_plan(A, B, **PLENTY), gpu=True) == ()


def test_transformers_without_batching_only_queues():
    plan = a_plan(GPU, load=Load(concurrencies=(1, 4)), **PLENTY)
    assert "gpu answers one request after another" in told(plan)
    alone = a_plan(GPU, load=Load(concurrencies=(1,)), **PLENTY)
    assert told(alone) == ""
    batching = replace(GPU, settings=EngineSettings(continuous_batching=True))
    assert told(a_plan(batching, load=Load(concurrencies=(1, 4)), **PLENTY)) == ""


def test_a_rate_that_a_serial_lane_can_not_keep_is_foretold():
    load = Load(kind=LoadKind.OPEN, rates_req_per_s=(2.0,))
    plan = a_plan(GPU, load=load, **PLENTY)
    slow, fast = ({"gpu": Speed(ttft_s=ttft_s, tpot_s=0.0)} for ttft_s in (1.0, 0.1))
    assert "about 1 a second: at 2 its queue only grows" in told(plan, speeds=slow)
    assert told(plan, speeds=fast) == ""


def test_a_cpu_says_nothing_of_a_gpu():
    assert "hf runs on the CPU" in told(a_plan(HF, **PLENTY))
    assert "gpu runs on the CPU" in told(a_plan(GPU, **PLENTY), gpu=False)


def test_percentiles_of_too_few_requests_are_named():
    assert "A point has 4 requests: p95 needs 30 and p99 100" in told(a_plan(A))
    assert "A point has 40 requests: p99 needs 100" in told(a_plan(A, requests=20, repeats=2))
    timed = a_plan(A, requests=None, seconds=10)
    assert "about 10 requests" in told(timed, speeds={"a": Speed(ttft_s=1.0, tpot_s=0.0)})


def test_what_the_lanes_do_not_share_is_named():
    other = replace(B, endpoint=replace(B.endpoint, model="other"))
    assert "Not the same in all lanes: model" in told(a_plan(A, other, **PLENTY))
    natural = Workload(fixed_output=False)
    assert "different amounts of work" in told(a_plan(A, B, workload=natural, **PLENTY))
    repeated = Workload(prompts=PromptKind.EXAMPLES)
    assert "may keep a prefix cache" in told(a_plan(A, workload=repeated, **PLENTY))
    assert "prefix cache" not in told(a_plan(GPU, workload=repeated, **PLENTY))
    assert "Without warm-up" in told(a_plan(A, warmup=0, **PLENTY))
    assert "can't be stopped from here" in told(a_plan(A, remote("c"), isolation=Isolation.STOPPED, **PLENTY))
