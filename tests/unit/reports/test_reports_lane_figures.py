from dataclasses import replace

import pytest

from core.bench.plan import Workload
from core.reports.lane_figures import comparable, decode_ratio, throughput_ratio, ttft_ratio
from tests.unit.bench.bench_samples import a_failure
from tests.unit.reports.scorecard_samples import HF, TURBOMIND, run_of, speed_of

SLOW = [0.040, 0.042, 0.038, 0.041]
FAST = [0.010, 0.011, 0.009, 0.010]
FAILURE = a_failure(0, "engine-busy").error


@pytest.fixture(scope="module")
def record():
    return run_of({HF: SLOW, TURBOMIND: FAST}, second_load=True)


def test_ttft_and_decode_speed_are_those_of_the_lightest_load_with_their_n(record):
    hf = speed_of(record, "hf")
    assert hf.level.concurrency == 1
    assert (hf.ttft_p50_s.value, hf.ttft_p50_s.n) == (pytest.approx(0.405), 4)
    assert hf.decode_p50_tok_per_s.value == pytest.approx((1 / 0.040 + 1 / 0.041) / 2)
    assert hf.tpot_samples_s == pytest.approx(SLOW)


def test_throughput_is_that_of_the_best_load_and_memory_the_peak_of_all(record):
    hf = speed_of(record, "hf")
    assert hf.best_point.level.concurrency == 4
    assert hf.system_tok_per_s.value > hf.decode_p50_tok_per_s.value
    assert (hf.peak_memory_bytes.value, hf.peak_memory_bytes.n) == (4 * 2**30, 2)
    assert hf.memory_is_gpu


def test_energy_is_told_by_token_at_the_lightest_load(record):
    assert speed_of(record, "hf").energy_j_per_token.value == pytest.approx(2.0 / 44)


def test_a_lane_that_answered_nothing_has_no_figures(record):
    failing = tuple(
        replace(request, timing=None, error=FAILURE) if request.lane == "hf" else request
        for request in record.requests
    )
    broken = replace(record, requests=failing)
    assert speed_of(broken, "hf") is None
    assert speed_of(broken, "turbomind") is not None
    assert speed_of(record, "nobody") is None


def test_the_ratios_are_those_of_the_means(record):
    hf, turbomind = speed_of(record, "hf"), speed_of(record, "turbomind")
    decode = decode_ratio(turbomind, hf)
    assert decode.value == pytest.approx(0.04025 / 0.010)
    assert decode.interval.low > 3.5
    assert decode.interval.high < 4.6
    assert decode.n == 4
    assert ttft_ratio(turbomind, hf).value == pytest.approx(0.010 / 0.04025)


def test_throughput_of_one_repeat_has_no_interval(record):
    ratio = throughput_ratio(speed_of(record, "turbomind"), speed_of(record, "hf"))
    assert ratio.value > 1
    assert ratio.interval is None


@pytest.mark.parametrize("changes", [{"workload": Workload(prompt_tokens=999, output_tokens=11)}])
def test_other_prompts_are_not_compared(record, changes):
    other = speed_of(run_of({HF: SLOW}, **changes), "hf")
    turbomind = speed_of(record, "turbomind")
    assert not comparable(turbomind, other)
    assert decode_ratio(turbomind, other) is None
    assert ttft_ratio(turbomind, other) is None
    assert throughput_ratio(turbomind, other) is None


def test_throughput_is_compared_only_where_the_loads_were_the_same(record):
    other = speed_of(run_of({HF: SLOW}), "hf")
    turbomind = speed_of(record, "turbomind")
    assert decode_ratio(turbomind, other) is not None
    assert throughput_ratio(turbomind, other) is None
