from core.bench.passes import Speed, estimated_s
from core.bench.presets import Preset, preset_plan
from tests.unit.bench.bench_samples import A, B


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
