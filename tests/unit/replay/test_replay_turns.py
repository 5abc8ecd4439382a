import pytest

from core.domain.turns import FinishReason, Phase
from core.errors import InputError
from core.replay.turns import LaneFrame, TurnTimeline
from tests.unit.replay.recorded import request, timing, turn

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
