import pytest

from core.domain.bench import RunState
from core.domain.turns import ErrorInfo
from core.errors import InputError
from core.replay.load import LaneLoad, LoadTimeline
from tests.unit.replay.recorded import bench, bench_pass, bench_request, timing

PASSES = (bench_pass(1, 2012, 2016, 4), bench_pass(0, 2002, 2010, 1))
REQUESTS = (
    bench_request(0, "hf", 0, timing(sent_s=2000, chunks_s=(2001,), content=(1,), tokens=1), warmup=True),
    # One token a chunk, as the count says.
    bench_request(
        1, "hf", 0, timing(sent_s=2002, chunks_s=(2003, 2004), content=(1, 1), tokens=2, ended_s=2004.5)
    ),
    # Nobody knows which chunk held how many of its five tokens.
    bench_request(2, "hf", 0, timing(sent_s=2003, chunks_s=(2005, 2006), content=(1, 1), tokens=5)),
    bench_request(
        3, "hf", 1, timing(sent_s=2012, chunks_s=(2013,), content=(1,), tokens=7, chunk_tokens=(7,))
    ),
    bench_request(
        4, "hf", 1, timing(sent_s=2013, chunks_s=(), content=()), error=ErrorInfo("timeout", "Too slow.")
    ),
)


def hf(timeline, at_s):
    frame = timeline.frame(at_s)
    assert [lane.lane for lane in frame.lanes] == ["hf", "awq"]
    return frame.lanes[0]


def state(in_flight, answered, failed, tokens, speed):
    return LaneLoad(
        lane="hf",
        in_flight=in_flight,
        answered=answered,
        failed=failed,
        output_tokens=tokens,
        tok_per_s=speed,
    )


def test_each_moment_shows_what_was_in_flight_and_what_had_come():
    timeline = LoadTimeline(bench(*REQUESTS, passes=PASSES))
    assert timeline.duration_s == 13.0
    assert hf(timeline, 0.0) == state(1, 0, 0, 0, 0.0)  # the warm-up
    assert hf(timeline, 1.0) == state(0, 0, 0, 0, 0.0)
    assert hf(timeline, 2.0) == state(1, 0, 0, 0, 0.0)
    assert hf(timeline, 3.0) == state(2, 0, 0, 1, 1.0)
    assert hf(timeline, 4.5) == state(1, 1, 0, 2, 1.0)
    assert hf(timeline, 6.0) == state(0, 2, 0, 7, 5.0)
    assert hf(timeline, 9.0) == state(0, 2, 0, 7, 0.0)
    assert hf(timeline, 13.0) == state(0, 3, 1, 14, 7.0)


def test_each_moment_belongs_to_a_pass_or_to_none():
    timeline = LoadTimeline(bench(*REQUESTS, passes=PASSES))
    assert [one.number for one in timeline.passes] == [0, 1]
    seen = [(timeline.frame(at_s).current, timeline.frame(at_s).passes_done) for at_s in (1, 2, 10, 12.5)]
    assert [(one and one.number, done) for one, done in seen] == [(None, 0), (0, 0), (None, 1), (1, 1)]


def test_a_run_that_goes_on_or_sent_nothing_has_no_replay():
    for record in (
        bench(*REQUESTS, passes=PASSES, state=RunState.RUNNING),
        bench(bench_request(0, "hf", 0, None), passes=PASSES),
    ):
        with pytest.raises(InputError) as caught:
            LoadTimeline(record)
        assert caught.value.code == "nothing-to-replay"
