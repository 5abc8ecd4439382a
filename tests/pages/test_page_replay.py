"""Replays of stored turns and benchmark runs on the history's pages."""

from dataclasses import replace

import pytest
from test_page_history import button, home, open_page, texts  # noqa: F401 - fixtures

from core.domain.timing import Timing
from core.ui import replay
from core.ui.replay import opening_speed
from tests.unit.replay.recorded import walk

pytestmark = pytest.mark.usefixtures("clock")


class Clock:
    """Time goes on only while the player waits."""

    def __init__(self):
        self.now_s = 100.0
        self.waits = 0

    def monotonic(self):
        return self.now_s

    def sleep(self, seconds):
        self.now_s += seconds
        self.waits += 1


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(replay, "monotonic", clock.monotonic)
    monkeypatch.setattr(replay, "sleep", clock.sleep)
    return clock


def plain(app):
    return texts(app).replace("\\", "")


def toggle(app, entry_id):
    app.toggle(key=f"history_replay_{entry_id}").set_value(True).run()
    assert not app.exception
    return app


def test_a_turn_is_replayed_to_its_end_and_nothing_is_stored(home, open_page, clock):  # noqa: F811
    turn_id = home.turn()
    before = home.store.turn(turn_id)
    app = toggle(open_page(turn=turn_id), turn_id)
    assert "Recorded on" in texts(app)
    assert "Answer of hf." not in texts(app)
    assert "Waiting for the first token" in texts(app)
    button(app, "Play").click().run()
    assert not app.exception
    assert clock.waits > 0
    assert "Answer of hf." in texts(app)
    assert "Answer of remote." in texts(app)
    assert [metric.label for metric in app.metric].count("E2E") == 2
    assert button(app, "Play again")
    assert home.store.turn(turn_id) == before
    assert home.history.count() == 1


def test_a_place_in_the_middle_shows_what_had_arrived(home, open_page):  # noqa: F811
    turn_id = home.turn()
    turn = home.store.turn(turn_id)
    for request in turn.requests:
        timing = Timing(
            sent_ns=0,
            chunk_ns=(1_000_000_000, 9_000_000_000),
            content_chars=(6, len(request.text) - 6),
            output_tokens=2,
            ended_ns=10_000_000_000,
        )
        home.store.save_request(replace(request, timing=timing))
    app = toggle(open_page(turn=turn_id), turn_id)
    app.slider(key=f"replay_place_turn_{turn_id}").set_value(5.0).run()
    assert not app.exception
    assert "Answer" in texts(app)
    assert "Answer of" not in texts(app)
    button(app, "To the end").click().run()
    assert "Answer of hf." in texts(app)


def test_a_run_is_replayed_pass_by_pass(home, open_page, clock):  # noqa: F811
    run_id = home.run()
    app = toggle(open_page(run=run_id), run_id)
    button(app, "Play").click().run()
    assert not app.exception
    assert "4 answered" in texts(app)
    assert "Recorded on" in texts(app)


def test_a_turn_of_which_nothing_was_sent_says_so(home, open_page):  # noqa: F811
    turn_id = home.turn()
    for request in home.store.turn(turn_id).requests:
        home.store.save_request(replace(request, timing=None))
    app = toggle(open_page(turn=turn_id), turn_id)
    assert "nothing to replay" in texts(app)


def test_what_takes_long_begins_faster():
    assert [opening_speed(duration_s) for duration_s in (3.0, 45.0, 280.0, 5000.0)] == [1.0, 2.0, 10.0, 20.0]


def test_a_link_opens_a_turn_with_its_replay(home, open_page):  # noqa: F811
    app = open_page(turn=home.turn(), replay="1")
    assert button(app, "Play")
    button(app, "Back to history").click().run()
    assert "replay" not in app.query_params


def test_a_walk_has_its_steps_its_report_and_its_replay(home, open_page, clock):  # noqa: F811
    run = walk(3.0, 0.0, 2.0)
    home.walks.save(run)
    app = open_page(walk=run.id)
    assert "1. Check the environment" in plain(app)
    assert "3. Chat with TurboMind" in plain(app)
    assert [element.label for element in app.get("download_button")] == ["HTML report", "JSON"]
    toggle(app, run.id)
    assert "Recorded on NVIDIA H200, 2026-11-29" in texts(app)
    assert "3. Chat with TurboMind" not in plain(app)
    app.slider(key=f"replay_place_walk_{run.id}").set_value(3.5).run()
    assert ":shimmer[3. Chat with TurboMind]" in plain(app)
    button(app, "Play").click().run()
    assert not app.exception
    assert "shimmer" not in texts(app)
    assert "3. Chat with TurboMind" in plain(app)


def test_an_unknown_walk_says_so(open_page):  # noqa: F811
    assert "not found" in texts(open_page(walk="0123456789abcdef"))
