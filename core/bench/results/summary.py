"""A run in the few figures that a list of runs shows: each lane at its lightest load.

The lightest load is what compares best with a turn of the chat, and with runs at other loads.
"""

from collections.abc import Sequence

from core.bench.statistics import median_of_known
from core.domain.bench import BenchPass, BenchRecord, BenchRequest
from core.domain.history import LaneSummary, Summary


def summarise(record: BenchRecord) -> Summary:
    """p50 of TTFT and of decode speed for each lane, over its answers at the lightest load; warm-up left out.

    A lane that was measured alone is shown alone, otherwise together with the fewest others.
    """
    measured = [request for request in record.requests if not request.warmup]
    return Summary(
        lanes=tuple(_lane(facts.lane.name, record.passes, measured) for facts in record.run.lanes),
        answered=sum(request.ok for request in measured),
        failed=sum(request.failed for request in measured)
        + sum(facts.error is not None for facts in record.run.lanes),
    )


def _lane(name: str, passes: Sequence[BenchPass], requests: Sequence[BenchRequest]) -> LaneSummary:
    chosen = _lightest(name, passes)
    timings = [
        request.timing
        for request in requests
        if request.lane == name and request.pass_number in chosen and request.ok and request.timing
    ]
    return LaneSummary(
        lane=name,
        ttft_s=median_of_known(timing.ttft_s for timing in timings),
        decode_tok_per_s=median_of_known(timing.decode_tok_per_s for timing in timings),
    )


def _lightest(lane: str, passes: Sequence[BenchPass]) -> set[int]:
    """The numbers of the lane's passes at its lightest load, all repeats."""
    loads = {each.number: _load(each) for each in passes if lane in each.lanes}
    least = min(loads.values(), default=None)
    return {number for number, load in loads.items() if load == least}


def _load(bench_pass: BenchPass) -> tuple[int, float]:
    return len(bench_pass.lanes), bench_pass.level.value
