import asyncio
import gc
import weakref

import pytest

from core.chat_api.client import open_session
from core.domain.turns import Phase
from core.meter.process import BEAT_S, Feed, Pace, RunningTurn
from core.meter.protocol import Update
from core.meter.recorder import Recorder
from core.meter.turns import Surroundings
from tests.unit.meter.meter_samples import model, no_lease, remote_lane, resolve_remote, turn_plan
from tests.unit.meter.test_meter_recorder import record_of


def test_news_is_unsaved_until_somebody_says_it_is():
    feed = Feed("r")
    assert not feed.unsaved
    feed.take(Update(request_id="r", phase=Phase.SENT))
    assert feed.unsaved


def test_a_follower_that_comes_late_gets_all_so_far():
    feed = Feed("r")
    for piece in ("a", "b", "c"):
        feed.take(Update(request_id="r", phase=Phase.STREAMING, content=piece))
    assert feed.since(0).content == "abc"
    assert feed.since(2).content == "c"


def test_of_an_ended_request_each_text_is_kept_once_for_those_that_come_late():
    record = record_of(turn_plan(remote_lane("a", "http://host/v1", "m")), phase=Phase.DONE)

    async def play(*, with_follower):
        feed, told = Feed("r"), []

        async def tell(update):
            told.append(update)

        if with_follower:
            following = asyncio.create_task(feed.follow(tell, Pace()))
            await asyncio.sleep(0)
        for piece in ("a", "b", "c"):
            feed.take(Update(request_id="r", phase=Phase.STREAMING, content=piece, reasoning=piece))
        feed.take(Update(request_id="r", phase=Phase.DONE, record=record))
        if with_follower:
            await following
            assert "".join(update.content for update in told) == "abc"
        return feed

    for with_follower in (True, False):
        feed = asyncio.run(play(with_follower=with_follower))
        assert (feed.content, feed.reasoning) == (["abc"], ["abc"])
        assert feed.since(0).content == "abc"


@pytest.mark.parametrize(
    ("followers", "interval_s"), [(1, 0.05), (10, 0.05), (40, 0.2), (128, 0.64), (1000, 1.0)]
)
def test_the_more_follow_the_less_often_each_is_told(followers, interval_s):
    assert Pace(followers).interval_s == pytest.approx(interval_s)


@pytest.mark.parametrize(("followers", "beats"), [(1, 1), (40, 4)])
def test_followers_are_told_on_common_beats(followers, beats):
    pace = Pace(followers)
    assert pace.next_s(10 * BEAT_S + 0.001) == pytest.approx((10 + beats) * BEAT_S)
    assert pace.next_s(10 * BEAT_S + 0.04) == pytest.approx((10 + beats) * BEAT_S)


def test_pieces_that_come_too_soon_are_joined_and_the_end_is_told_at_once():
    """A crowd's pace is so slow here that nothing but the end can be told after the beginning."""
    record = record_of(turn_plan(remote_lane("a", "http://host/v1", "m")), phase=Phase.DONE)

    async def play():
        feed, pace, told = Feed("r"), Pace(followers=10**6), []

        async def tell(update):
            told.append(update)

        following = asyncio.create_task(feed.follow(tell, pace))
        await asyncio.sleep(0)
        for piece in ("a", "b", "c"):
            feed.take(Update(request_id="r", phase=Phase.STREAMING, content=piece))
            await asyncio.sleep(0)
        feed.take(Update(request_id="r", phase=Phase.DONE, record=record))
        await following
        return told, pace

    told, pace = asyncio.run(play())
    assert [update.content for update in told] == ["", "abc"]
    assert told[-1].record is record
    assert pace.followers == 10**6


def test_a_dropped_turn_is_gone_at_once(server):
    """Without the interpreter's search for cycles, which is rare where few objects hold long texts."""
    plan = turn_plan(remote_lane("a", server.url, model(text="one two")))

    async def play():
        async with open_session() as session:
            around = Surroundings(session=session, resolve=resolve_remote, lease=no_lease)
            turn = RunningTurn(plan, around, Recorder(lambda: None, lambda: None))
            await turn.task
            assert turn.record().requests[0].text == "one two"
            dropped = weakref.ref(turn), weakref.ref(turn._turn)
            del turn
            await asyncio.sleep(0)  # the loop lets go of the task
            return [reference() for reference in dropped]

    gc.collect()
    gc.disable()
    try:
        assert asyncio.run(play()) == [None, None]
    finally:
        gc.enable()
