"""A run in a few figures: for a list of runs, and of the running pass.

A list shows each lane at its lightest load, which compares best with a turn of the chat, and with runs at
other loads. Figures of the running pass are cheap enough to compute every second during the measurement.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from core.bench.results.definitions import DEFINITIONS, Tool, system_tok_per_s
from core.bench.results.points import Part
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


@dataclass(frozen=True, slots=True, kw_only=True)
class PassProgress:
    """Progress of a pass; None before there is any."""

    bench_pass: BenchPass
    answered: int
    failed: int
    ttft_s: float | None
    """p50 of the answered requests, as is `tpot_s`."""
    tpot_s: float | None
    system_tok_per_s: float | None
    """From the start of the pass to its last answer, all lanes together."""


def newest_pass(record: BenchRecord) -> PassProgress | None:
    """The pass that began last; None before the first one."""
    if not record.passes:
        return None
    newest = record.passes[-1]
    requests = (r for r in record.requests if r.pass_number == newest.number and not r.warmup)
    part = Part(newest, tuple(requests))
    return PassProgress(
        bench_pass=newest,
        answered=len(part.ok),
        failed=sum(request.failed for request in part.requests),
        ttft_s=median_of_known(timing.ttft_s for timing in part.timings),
        tpot_s=median_of_known(timing.tpot_s for timing in part.timings),
        system_tok_per_s=system_tok_per_s(DEFINITIONS[Tool.LMDYNO], part.timings, part.window_s, None)
        if part.timings
        else None,
    )


def finished_part(record: BenchRecord) -> BenchRecord:
    """The record without the pass under way: it changes only when a pass ends."""
    passes = tuple(each for each in record.passes if each.end_ns is not None)
    numbers = {each.number for each in passes}
    return replace(
        record, passes=passes, requests=tuple(r for r in record.requests if r.pass_number in numbers)
    )
