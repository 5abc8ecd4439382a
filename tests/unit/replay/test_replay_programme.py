from dataclasses import replace

from core.replay.programme import HOLD_S, Place, Playback, programme
from core.replay.recording import Recording
from tests.unit.replay.recorded import AT, H200, bench, bench_pass, bench_request, request, timing, turn, walk


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
