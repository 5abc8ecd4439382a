from core.domain.turns import Phase
from core.meter.feeds import Feed
from core.meter.protocol import Update


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
