from core.replay.playback import Playback


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
