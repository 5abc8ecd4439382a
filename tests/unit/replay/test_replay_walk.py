import pytest

from core.errors import InputError
from core.replay.walk import WalkFrame, WalkTimeline
from tests.unit.replay.recorded import walk


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
