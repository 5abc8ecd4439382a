"""Checks of an imported run beyond its form: ids, ranges, and that its parts belong together."""

import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any

from core.config.lanes import LANE_NAME
from core.domain.bench import BenchPass, BenchRequest, RunFacts
from core.domain.quality import QualityAnswer
from core.domain.specs import LaneSpec
from core.domain.timing import Timing
from core.errors import InputError
from core.i18n import N_

_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
_MAX_TEXT_CHARS = {"title": 1000, "note": 20_000, "tag": 200, "lmdyno": 100}
_MAX_LANES = 64
_MAX_PASSES = 100_000
_MAX_REQUESTS = 10**8
_MAX_TOKENS = 10**9
_MAX_NS = 2**62


def check_schema(version: int, supported: int) -> None:
    """Raises InputError (`newer-schema`) for a document of a later version."""
    if version > supported:
        raise InputError(
            N_(
                "A newer version of LMDyno exported this run (schema {version}, this version supports "
                "{known}).",
                version=version,
                known=supported,
            ),
            hint=N_("Update LMDyno."),
            code="newer-schema",
        )


def check_head(run: RunFacts, lanes: Sequence[LaneSpec]) -> None:
    """Raises InputError (`bad-record`) for a run whose own fields can't be."""
    _require(_ID.fullmatch(run.id) is not None, "id", "is no id of a run")
    for name, moment in (("created_at", run.created_at), ("finished_at", run.finished_at)):
        _require(moment is None or moment.tzinfo is not None, name, "has no time zone")
    for name, most in _MAX_TEXT_CHARS.items():
        _require(len(getattr(run, name)) <= most, name, "is too long")
    names = [lane.name for lane in lanes]
    _require(0 < len(names) <= _MAX_LANES, "lanes", "are none, or too many")
    _require(len(set(names)) == len(names), "lanes", "have names that occur twice")
    for name in names:
        _require(LANE_NAME.fullmatch(name) is not None, "lanes", "have a name that is none")


def check_passes(passes: Sequence[BenchPass], lanes: Collection[str]) -> None:
    """Raises InputError (`bad-record`) for passes that can't belong to a run of these lanes."""
    _require(len(passes) <= _MAX_PASSES, "passes", "are too many")
    _require(
        len({bench_pass.number for bench_pass in passes}) == len(passes),
        "passes",
        "have numbers that occur twice",
    )
    for bench_pass in passes:
        place = f"passes.{bench_pass.number}"
        _require(
            0 <= bench_pass.number <= _MAX_REQUESTS and bench_pass.repeat >= 0,
            place,
            "has a number out of range",
        )
        ends = bench_pass.start_ns if bench_pass.end_ns is None else bench_pass.end_ns
        _require(abs(bench_pass.start_ns) <= ends <= _MAX_NS, place, "ends before it starts")
        _require(
            bool(bench_pass.lanes) and set(bench_pass.lanes) <= set(lanes),
            place,
            "has lanes that the run hasn't",
        )
        _require(bench_pass.started_at.tzinfo is not None, place, "has no time zone")
        level = bench_pass.level
        _require((level.concurrency is None) != (level.rate_req_per_s is None), place, "has no load level")
        _require(level.value > 0, place, "has a load level that is not positive")


def checked_requests(requests: Iterable[BenchRequest], passes: Sequence[BenchPass]) -> Iterator[BenchRequest]:
    """The requests, each as soon as it is found to be in order. Raises InputError (`bad-record`)."""
    lanes = {bench_pass.number: bench_pass.lanes for bench_pass in passes}
    seen: set[int] = set()
    for request in requests:
        place = f"requests.{request.number}"
        _require(0 <= request.number <= _MAX_REQUESTS, place, "has a number out of range")
        _require(request.number not in seen, place, "has a number that occurs twice")
        seen.add(request.number)
        _require(request.lane in lanes.get(request.pass_number, ()), place, "belongs to no pass of its lane")
        _require(abs(request.planned_ns or 0) <= _MAX_NS, place, "has a timestamp out of range")
        check_tokens(place, request.prompt_tokens, request.cached_tokens)
        if request.timing:
            check_timing(place, request.timing)
        yield request


def checked_answers(answers: Iterable[QualityAnswer], lanes: Collection[str]) -> Iterator[QualityAnswer]:
    """The answers, each as soon as it is found to be in order. Raises InputError (`bad-record`)."""
    seen: set[tuple[object, ...]] = set()
    for answer in answers:
        key = (answer.lane, answer.part, answer.item, answer.repeat)
        place = f"answers.{answer.lane}.{answer.part}.{answer.item}"
        _require(answer.lane in lanes, place, "belongs to no lane of the run")
        _require(0 <= answer.item <= _MAX_REQUESTS and 0 <= answer.repeat <= 1000, place, "is out of range")
        _require(key not in seen, place, "occurs twice")
        seen.add(key)
        check_tokens(place, answer.prompt_tokens, *(answer.token_ids or ()))
        if answer.timing:
            check_timing(place, answer.timing)
        yield answer


def check_tokens(place: str, *counts: int | None) -> None:
    for count in counts:
        _require(count is None or 0 <= count <= _MAX_TOKENS, place, "has a token count out of range")


def check_timing(place: str, timing: Timing) -> None:
    """Timestamps in order, and as many lengths as chunks."""
    chunks = timing.chunk_ns
    moments = [timing.sent_ns, *chunks]
    _require(moments == sorted(moments), place, "has timestamps out of order")
    _require(moments[0] >= 0 and moments[-1] <= _MAX_NS, place, "has a timestamp out of range")
    lengths: tuple[tuple[Any, ...], ...] = (timing.content_chars, timing.reasoning_chars)
    _require(
        all(len(chunk_lengths) in (0, len(chunks)) for chunk_lengths in lengths),
        place,
        "has not a length for each chunk",
    )
    _require(len(timing.chunk_tokens or chunks) == len(chunks), place, "has not a token count for each chunk")
    counts = (*timing.content_chars, *timing.reasoning_chars, *(timing.chunk_tokens or ()))
    check_tokens(place, timing.output_tokens, min(counts, default=None), max(counts, default=None))


def _require(holds: bool, place: str, problem: str) -> None:
    if not holds:
        raise InputError(
            N_("The file can't be imported: {place} {problem}", place=place, problem=problem),
            hint=N_("Use a JSON file that was exported here or with `lmdyno runs export`."),
            code="bad-record",
        )
