from core.domain.turns import Phase
from core.meter.feeds import Feed
from core.meter.protocol import Update


def written(pieces, size):
    """Characters that a store is given in all, if it is offered the text after each piece."""
    feed, total = Feed("r"), 0
    for _ in range(pieces):
        feed.take(Update(request_id="r", phase=Phase.STREAMING, content="x" * size))
        if feed.is_worth_saving:
            feed.saved()
            total += feed.chars
    return total


def test_what_is_written_grows_with_the_text_and_not_with_its_square():
    for pieces in (1_000, 4_000):
        assert written(pieces, 1000) < 8 * pieces * 1000


def test_a_short_answer_is_saved_with_every_piece():
    assert written(10, 100) == sum(range(100, 1001, 100))


def test_what_is_saved_is_saved_once():
    feed = Feed("r")
    feed.take(Update(request_id="r", phase=Phase.SENT))
    assert feed.is_worth_saving
    feed.saved()
    assert not feed.is_worth_saving
