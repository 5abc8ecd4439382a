from itertools import islice, pairwise

import pytest

from core.bench.planning.passes import Step, SweepProgress, saturation, steps
from core.bench.planning.plan import Arrivals, Isolation, Load, LoadKind
from core.bench.run.load import arrivals
from core.domain.bench import LoadLevel
from tests.unit.bench.bench_samples import A, B, a_plan


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
