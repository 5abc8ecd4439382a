"""States of a recording at any moment, and the show that is made of it."""

from dataclasses import replace

import pytest

from core.domain.runs import RunState
from core.domain.turns import ErrorInfo, FinishReason, Phase
from core.errors import InputError
from core.replay.recording import Recording
from core.replay.timelines import (
    HOLD_S,
    LaneFrame,
    LaneLoad,
    LoadTimeline,
    Place,
    Playback,
    TurnTimeline,
    WalkFrame,
    WalkTimeline,
    programme,
)
from tests.unit.replay.recorded import AT, H200, bench, bench_pass, bench_request, request, timing, turn, walk

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


HF = request(
    "hf",
    "Hello",
    timing(sent_s=100, chunks_s=(102, 103.5, 103.5), content=(2, 1, 2), ended_s=104),
)
AWQ = request(
    "awq",
    "42",
    timing(sent_s=104, chunks_s=(105, 106), content=(0, 2), reasoning=(4, 0), ended_s=106.5),
    reasoning="Hmm.",
)


def test_each_lane_stands_where_it_stood():
    timeline = TurnTimeline(turn(HF, AWQ))
    assert timeline.duration_s == 6.5
    queued = LaneFrame(phase=Phase.QUEUED)
    assert timeline.frame(0.0) == (LaneFrame(phase=Phase.SENT, since_sent_s=0.0), queued)
    assert timeline.frame(1.5) == (LaneFrame(phase=Phase.SENT, since_sent_s=1.5), queued)
    assert timeline.frame(2.0)[0] == LaneFrame(phase=Phase.STREAMING, content_chars=2, since_sent_s=2.0)
    assert timeline.frame(3.5)[0] == LaneFrame(phase=Phase.STREAMING, content_chars=5, since_sent_s=3.5)
    hf, awq = timeline.frame(4.0)
    assert hf == LaneFrame(phase=Phase.DONE, content_chars=5, since_sent_s=4.0)
    assert awq == LaneFrame(phase=Phase.SENT, since_sent_s=0.0)
    assert timeline.frame(5.5)[1] == LaneFrame(phase=Phase.STREAMING, reasoning_chars=4, since_sent_s=1.5)
    assert timeline.frame(6.0)[1].content_chars == 2
    assert [lane.phase for lane in timeline.frame(6.5)] == [Phase.DONE, Phase.DONE]


def test_the_end_shows_the_whole_text_though_no_chunk_held_it():
    refused = request("hf", "Hello, world", timing(sent_s=1, chunks_s=(2,), content=(5,), ended_s=3))
    timeline = TurnTimeline(turn(refused))
    assert timeline.frame(1.9)[0].content_chars == 5
    assert timeline.frame(2.0)[0].content_chars == 12


def test_what_was_never_sent_is_over_from_the_beginning():
    never = request("awq", "", None, finish_reason=FinishReason.ERROR)
    timeline = TurnTimeline(turn(HF, never))
    assert timeline.frame(0.0)[1] == LaneFrame(phase=Phase.DONE)
    assert timeline.duration_s == 4.0


def test_a_stream_without_an_end_lasts_until_its_last_chunk():
    timeline = TurnTimeline(turn(request("hf", "Hi", timing(sent_s=1, chunks_s=(4,), content=(2,)))))
    assert timeline.duration_s == 3.0


@pytest.mark.parametrize(
    "unplayable",
    [
        turn(request("hf", "", None)),
        turn(request("hf", "He", timing(sent_s=1, chunks_s=(2,), content=(2,)), phase=Phase.STREAMING)),
    ],
)
def test_nothing_to_replay(unplayable):
    with pytest.raises(InputError) as caught:
        TurnTimeline(unplayable)
    assert caught.value.code == "nothing-to-replay"


def test_each_step_takes_as_long_as_it_took():
    timeline = WalkTimeline(walk(8.0, 0.0, 2.0))
    assert timeline.duration_s == 10.0
    assert timeline.frame(0.0) == WalkFrame(done=0, elapsed_s=0.0)
    assert timeline.frame(7.5) == WalkFrame(done=0, elapsed_s=7.5)
    # The skipped step is over as soon as the one before it.
    assert timeline.frame(8.0) == WalkFrame(done=2, elapsed_s=0.0)
    assert timeline.frame(9.5) == WalkFrame(done=2, elapsed_s=1.5)
    assert timeline.frame(10.0) == WalkFrame(done=3, elapsed_s=0.0)


def test_a_walk_without_a_step_has_no_replay():
    with pytest.raises(InputError):
        WalkTimeline(walk())


def a_turn(name, length_s):
    answer = timing(sent_s=0, chunks_s=(length_s,), content=(2,), tokens=1)
    return turn(request("hf", "Hi", answer, turn_id=name), turn_id=name)


def a_recording(**parts):
    return Recording(title="Demo", recorded_at=AT, lmdyno="0.2.0", machine=H200, **parts)


RUN = bench(
    bench_request(0, "hf", 0, timing(sent_s=5, chunks_s=(6, 33), content=(1, 1), tokens=2)),
    passes=(bench_pass(0, 5, 33, 1),),
)


def test_the_parts_follow_each_other_and_stay_a_moment():
    shown = programme(a_recording(turns=(a_turn("turn0001", 4),), runs=(RUN,), walk=walk(30.0, 24.0)))
    assert [(part.timeline.duration_s, part.speed) for part in shown.parts] == [
        (4.0, 1.0),
        (28.0, 2.0),
        (54.0, 3.0),
    ]
    assert shown.duration_s == 4 + 14 + 18 + 3 * HOLD_S
    assert shown.place(0.0) == Place(0, 0.0)
    assert shown.place(3.5) == Place(0, 3.5)
    assert shown.place(5.0) == Place(0, 4.0)
    assert shown.place(6.0) == Place(1, 0.0)
    assert shown.place(9.0) == Place(1, 6.0)
    assert shown.place(22.0) == Place(2, 0.0)
    assert shown.place(23.0) == Place(2, 3.0)
    assert shown.place(1000.0) == Place(2, 54.0)


def test_turns_are_taken_as_long_as_there_is_time():
    turns = tuple(a_turn(f"turn000{number}", length_s) for number, length_s in enumerate((10, 9, 8, 5)))
    shown = programme(a_recording(turns=turns))
    assert [part.source.id for part in shown.parts] == ["turn0000", "turn0001", "turn0003"]


def test_a_long_first_turn_is_shown_all_the_same():
    assert len(programme(a_recording(turns=(a_turn("turn0000", 50),))).parts) == 1


def test_what_can_not_be_replayed_is_left_out():
    empty = replace(turn(request("hf", "", None)), id="turn0009")
    shown = programme(a_recording(turns=(empty,), walk=walk()))
    assert shown.parts == ()
    assert shown.duration_s == 0
    assert shown.place(1.0) == Place(0, 0.0)


def test_it_stands_at_the_beginning_until_it_is_played():
    playback = Playback(10.0)
    assert playback.position_s(5.0) == 0.0
    assert not playback.is_playing(5.0)
    playback.play(5.0)
    assert playback.is_playing(5.0)
    assert playback.position_s(8.0) == 3.0


def test_a_pause_keeps_the_place():
    playback = Playback(10.0)
    playback.play(0.0)
    playback.pause(4.0)
    assert playback.position_s(100.0) == 4.0
    playback.play(100.0)
    assert playback.position_s(101.0) == 5.0


def test_playing_again_while_it_plays_changes_nothing():
    playback = Playback(10.0)
    playback.play(0.0)
    playback.play(3.0)
    assert playback.position_s(4.0) == 4.0


def test_a_new_speed_holds_from_now_on():
    playback = Playback(10.0, speed=2.0)
    playback.play(0.0)
    playback.set_speed(0.5, 2.0)
    assert playback.position_s(2.0) == 4.0
    assert playback.position_s(4.0) == 5.0


def test_it_ends_at_its_end_and_plays_again_from_the_beginning():
    playback = Playback(10.0)
    playback.play(0.0)
    assert playback.position_s(12.0) == 10.0
    assert playback.has_ended(12.0)
    assert not playback.is_playing(12.0)
    playback.play(20.0)
    assert playback.position_s(21.0) == 1.0


def test_a_jump_goes_on_playing_or_stays_paused():
    playback = Playback(10.0)
    playback.seek(7.0, 0.0)
    assert playback.position_s(5.0) == 7.0
    playback.play(5.0)
    playback.seek(2.0, 6.0)
    assert playback.position_s(7.0) == 3.0
    playback.seek(99.0, 7.0)
    assert playback.position_s(7.0) == 10.0
    playback.seek(-1.0, 8.0)
    assert playback.position_s(9.0) == 0.0
