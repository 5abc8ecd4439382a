from dataclasses import replace

import pytest

from core.bench.passes import Preset, Speed, estimated_s, preset_plan
from core.bench.plan import (
    LIMIT_PRESETS,
    Arrivals,
    BenchPlan,
    Isolation,
    Limits,
    Load,
    LoadKind,
    PromptKind,
    Workload,
    parse_limits,
    parse_numbers,
    parse_whole_numbers,
)
from core.codec import decode, encode
from core.domain.runs import LoadLevel
from core.errors import InputError
from tests.unit.bench.bench_samples import HF, A, B, a_plan


@pytest.mark.parametrize(
    "changes",
    [
        {"lanes": ()},
        {"lanes": (A, A)},
        {"requests": None},
        {"requests": 4, "seconds": 1.0},
        {"requests": 0},
        {"requests": None, "seconds": 0.0},
        {"repeats": 0},
        {"warmup": -1},
        {"load": Load(concurrencies=(1, 8)), "requests": 7},
        {"lanes": (A,), "isolation": Isolation.TOGETHER},
        {"title": "two\nlines"},
    ],
)
def test_a_plan_that_can_not_be_measured_is_refused(changes):
    with pytest.raises(InputError):
        replace(a_plan(), **changes)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Load(concurrencies=()),
        lambda: Load(concurrencies=(0,)),
        lambda: Load(concurrencies=(2, 2)),
        lambda: Load(kind=LoadKind.OPEN),
        lambda: Load(kind=LoadKind.OPEN, rates_req_per_s=(0.0,)),
        lambda: Load(kind=LoadKind.SWEEP, max_concurrency=1),
        lambda: Workload(prompt_tokens=0),
        lambda: Workload(output_tokens=0),
        lambda: Workload(prompts=PromptKind.JSONL),
        lambda: Workload(path="prompts.txt"),
        lambda: Limits(),
        lambda: Limits(ttft_s=0.0),
    ],
)
def test_a_part_of_a_plan_that_makes_no_sense_is_refused(make):
    with pytest.raises(InputError):
        make()


def test_a_plan_survives_json():
    plan = a_plan(
        HF,
        B,
        load=Load(kind=LoadKind.OPEN, rates_req_per_s=(0.5, 2.0), arrivals=Arrivals.POISSON),
        limits=Limits(ttft_s=0.5),
        workload=Workload(prompts=PromptKind.TEXT, path="/p.txt"),
        isolation=Isolation.TOGETHER,
    )
    assert decode(BenchPlan, encode(plan)) == plan


def test_a_sweep_doubles_up_to_its_maximum():
    levels = Load(kind=LoadKind.SWEEP, max_concurrency=24).levels
    assert [level.concurrency for level in levels] == [1, 2, 4, 8, 16, 24]


def test_a_sweep_sends_enough_to_fill_every_level():
    plan = a_plan(load=Load(kind=LoadKind.SWEEP), requests=10)
    assert plan.requests_at(LoadLevel(concurrency=2)) == 10
    assert plan.requests_at(LoadLevel(concurrency=64)) == 128


@pytest.mark.parametrize("preset", Preset)
def test_every_preset_is_a_plan(preset):
    assert preset_plan(preset, (A, B)).title == preset


def test_a_quick_look_takes_about_a_minute_however_many_lanes():
    for lanes in ((A,), (A, B), (A, B, HF)):
        plan = preset_plan(Preset.QUICK_LOOK, lanes)
        assert 30 < plan.seconds * len(lanes) * len(plan.load.levels) < 60


def test_limits_are_read_as_seconds_or_by_name():
    assert parse_limits("ttft=0.5,tpot=0.03") == Limits(ttft_s=0.5, tpot_s=0.03)
    assert parse_limits("mlperf-interactive") == LIMIT_PRESETS["mlperf-interactive"]
    for wrong in ("", "ttft", "ttft=fast", "speed=3", "ttft=-1"):
        with pytest.raises(InputError):
            parse_limits(wrong)


def test_the_estimate_follows_the_lanes_speed():
    plan = a_plan(A, requests=8, warmup=0, load=Load(concurrencies=(1, 4)))
    speed = Speed(ttft_s=1.0, tpot_s=0.0)
    # Eight requests one by one, then in two waves of four.
    assert estimated_s(plan, {"a": speed}) == pytest.approx(10, abs=1)
    assert estimated_s(replace(plan, repeats=3), {"a": speed}) == pytest.approx(30, abs=3)


def test_the_estimate_knows_that_transformers_serves_one_at_a_time():
    plan = a_plan(HF, requests=8, warmup=0, load=Load(concurrencies=(4,)))
    assert estimated_s(plan, {"hf": Speed(ttft_s=1.0, tpot_s=0.0)}) == pytest.approx(8, abs=1)


def test_an_open_loop_takes_as_long_as_its_schedule():
    plan = a_plan(A, requests=20, load=Load(kind=LoadKind.OPEN, rates_req_per_s=(2.0,)), warmup=0)
    assert estimated_s(plan, {"a": Speed(ttft_s=0.1, tpot_s=0.0)}) == pytest.approx(10.1, abs=1)


def test_numbers_as_people_write_them():
    assert parse_numbers("The rate", "0.5, 1,2") == (0.5, 1, 2)
    assert parse_whole_numbers("Concurrency", "1, 4, 16") == (1, 4, 16)
    for text in ("", "1,,2", "many"):
        with pytest.raises(InputError, match="must be a list of numbers"):
            parse_whole_numbers("Concurrency", text)
    with pytest.raises(InputError, match=r"must be a list of whole numbers, not “1\.5”"):
        parse_whole_numbers("Concurrency", "1.5")


@pytest.mark.parametrize("text", ["inf", "nan", "1,nan"])
def test_what_is_not_finite_is_no_number(text):
    with pytest.raises(InputError):
        parse_numbers("The rate", text)
