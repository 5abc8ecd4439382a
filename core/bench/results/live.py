"""Figures of the running pass, cheap enough to compute every second during the measurement."""

from dataclasses import dataclass, replace

from core.bench.results.definitions import DEFINITIONS, Tool, system_tok_per_s
from core.bench.results.points import Part
from core.bench.statistics import median_of_known
from core.domain.bench import BenchPass, BenchRecord


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
