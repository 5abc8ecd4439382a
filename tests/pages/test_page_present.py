"""What pages present to a room; the board is drawn by a script in the browser (`tests/e2e`)."""

from contextlib import closing
from dataclasses import replace
from types import SimpleNamespace

import pytest
from page_fakes import BOOK, HF, HF_Q4, finished

from core.bench.results.result import RunRecords
from core.domain.conversation import Sampling
from core.domain.runs import RunState
from core.domain.turns import ErrorInfo, Phase, RequestPlan, TurnPlan, planned_record
from core.errors import StoreError
from core.jobs.registry import JobRecord, JobSpec, JobState, JobStatus
from core.reports.scorecard import ScorecardReader
from core.settings import Settings
from core.store.history import History
from core.store.runs import BenchRuns, QualityRuns
from core.ui.benchmark import runs as bench_runs_page
from core.ui.chat import page as chat_page
from core.ui.overview import scorecard
from core.ui.shared import resources
from tests.unit.bench.bench_samples import MACHINE
from tests.unit.reports.scorecard_samples import run_of

SLOW = [0.040, 0.042, 0.038, 0.041]
FAST = [0.010, 0.011, 0.009, 0.010]


@pytest.fixture
def room(world, monkeypatch, tmp_path):
    """A dashboard whose boards keep what they show."""
    room = world
    settings = Settings(
        home=tmp_path, lanes_file=tmp_path / "lanes.toml", database_url=f"sqlite:///{tmp_path / 'lmdyno.db'}"
    )
    room.boards, room.jobs = [], []
    monkeypatch.setattr(resources, "reachability", lambda: SimpleNamespace(of=lambda _name, _find: None))
    monkeypatch.setattr(resources, "resources", lambda: SimpleNamespace(settings=settings, gpu=False))
    monkeypatch.setattr(bench_runs_page, "running_benches", lambda _settings: tuple(room.jobs))
    for module in (bench_runs_page, chat_page, scorecard):
        monkeypatch.setattr(module, "show_board", lambda tiles, key: room.boards.append((key, list(tiles))))
    with (
        closing(BenchRuns(settings.database_url)) as bench,
        closing(QualityRuns(settings.database_url)) as quality,
        closing(History(settings.database_url)) as history,
    ):
        records = RunRecords(bench)
        reader = ScorecardReader(bench, quality, records, describe=lambda: MACHINE)
        for name, thing in (("history", history), ("run_records", records), ("scorecards", reader)):
            monkeypatch.setattr(resources, name, lambda thing=thing: thing)
        room.bench = bench
        yield room


@pytest.fixture
def present(room, new_app):
    def open_at(page=None, **query):
        app = new_app(page=page, **({"present": "1"} | query)).run()
        assert not app.exception
        return app

    return open_at


def texts(app):
    kinds = (app.markdown, app.caption, app.error, app.info)
    return "\n".join(element.value for kind in kinds for element in kind).replace("\\", "")


def keep(room, *, run_id="r1", **changes):
    record = run_of({HF: SLOW, HF_Q4: FAST}, run_id=run_id)
    room.bench.save(replace(record.run, **changes), record.passes, record.requests)


def a_turn(room, *, done=True, running=None):
    plan = TurnPlan(
        conversation_id="c1",
        prompt="What is *Ohm's* law?",
        sampling=Sampling(max_tokens=10),
        requests=tuple(RequestPlan(lane=lane, messages=()) for lane in (HF, HF_Q4)),
    )
    turn = planned_record(plan)
    if done:
        answers = tuple(finished(request, "U = R I of course") for request in turn.requests)
        turn = replace(turn, requests=answers)
    room.store.save(turn)
    if running:
        room.meter.hold(replace(turn, requests=tuple(running(request) for request in turn.requests)))
    return turn


def streaming(request):
    answer = finished(request, "U = R")
    return replace(answer, phase=Phase.STREAMING, finish_reason=None)


class TestScorecard:
    def test_it_has_no_sidebar_no_title_and_a_way_out(self, present, room):
        app = present()
        assert len(app.sidebar.children) == 0
        assert len(app.title) == 0
        app.button(key="present_end").click().run()
        assert "present" not in app.query_params
        assert "present_start" in [button.key for button in app.button]

    def test_three_figures_a_lane_and_the_verdict(self, present, room):
        keep(room)
        app = present()
        assert "# hf-q4 decodes 4.03 times as fast as hf" in texts(app)
        ((key, tiles),) = room.boards
        assert key == "present_scorecard"
        assert [tile.name for tile in tiles] == ["hf", "hf-q4", "remote"]
        assert [label for label, _value in tiles[0].figures] == ["TTFT", "Decode", "Best throughput"]
        assert tiles[0].figures[0] == ("TTFT", "405 ms")
        assert tiles[2].figures[0] == ("TTFT", "–")
        assert tiles[2].note == "remote hasn't been measured yet."
        assert len({tile.color for tile in tiles}) == 3

    def test_an_error_is_told(self, present, room, monkeypatch):
        def broken(*_args):
            raise StoreError("The database is locked.", hint="Try again.")

        monkeypatch.setattr(resources, "scorecards", lambda: SimpleNamespace(scorecard=broken))
        assert "The database is locked." in texts(present())


class TestTurn:
    def test_a_finished_turn_has_full_bars_and_its_figures(self, present, room):
        a_turn(room)
        app = present(view="turn")
        assert "# What is *Ohm's* law?" in texts(app)
        ((_key, tiles),) = room.boards
        assert [tile.progress for tile in tiles] == [1.0, 1.0]
        assert tiles[0].figures == [("TTFT", "50.0 ms"), ("Decode", "100 tok/s"), ("E2E", "100 ms")]
        assert tiles[0].note == "U = R I of course"

    def test_while_it_streams_each_lane_says_how_far_it_is(self, present, room):
        a_turn(room, done=False, running=streaming)
        present(view="turn")
        ((_key, tiles),) = room.boards
        assert tiles[0].progress == pytest.approx(0.3)
        assert tiles[0].figures[:2] == [("TTFT", "50.0 ms"), ("Decode", "–")]
        assert tiles[0].note == "U = R"

    def test_a_lane_that_waits_or_failed_says_so(self, present, room):
        problem = ErrorInfo("out-of-memory", "Out of memory.", "")
        phases = {"hf": {"phase": Phase.STARTING}, "hf-q4": {"phase": Phase.DONE, "error": problem}}
        a_turn(room, done=False, running=lambda request: replace(request, **phases[request.lane.name]))
        present(view="turn")
        ((_key, tiles),) = room.boards
        assert [tile.note for tile in tiles] == ["Starting the engine", "Out of memory."]
        assert tiles[0].progress == 0.0

    def test_the_chat_page_presents_its_own_conversation_with_the_prompt(self, present, room):
        a_turn(room)
        app = present("pages/chat.py", conversation="c1")
        assert [key for key, _tiles in room.boards] == ["present_turn"]
        assert len(app.sidebar.children) == 0
        app.chat_input[0].set_value("And why?").run()
        assert room.meter.plans[0].prompt == "And why?"

    def test_while_answers_come_escape_stops_them_and_does_not_leave(self, present, room):
        a_turn(room, done=False, running=streaming)
        app = present("pages/chat.py", conversation="c1")
        shortcuts = {button.label: button.proto.shortcut for button in app.button}
        assert shortcuts == {"Stop": "escape", "Exit presentation": ""}

    def test_before_the_first_turn_it_says_so(self, present):
        assert "Nothing has been asked yet." in texts(present(view="turn"))


class TestBenchmark:
    def test_the_newest_run(self, present, room):
        keep(room, title="quick look")
        app = present("pages/benchmark.py")
        assert "# quick look" in texts(app)
        ((_key, tiles),) = room.boards
        assert [tile.figures[0] for tile in tiles] == [("TTFT", "405 ms"), ("TTFT", "100 ms")]

    def test_a_run_that_goes_on_shows_its_progress(self, present, room):
        keep(room, state=RunState.RUNNING)
        spec = JobSpec(id="r1", kind="bench", title="quick look", worker="w", arguments={}, python="p")
        room.jobs = [JobStatus(spec, JobRecord(state=JobState.RUNNING, progress=0.5, stage="hf-q4"))]
        app = present("pages/benchmark.py")
        assert [bar.value for bar in app.get("progress")] == [50]
        ((_key, tiles),) = room.boards
        assert "4 answered" in tiles[1].note

    def test_without_any_run_it_says_so(self, present):
        assert "Nothing has been measured yet." in texts(present("pages/benchmark.py"))


class TestKiosk:
    @pytest.fixture(autouse=True)
    def clock(self, monkeypatch):
        self.now_s = 0.0
        monkeypatch.setattr(scorecard.time, "time", lambda: self.now_s)

    def test_the_chosen_views_take_turns(self, present, room):
        keep(room)
        a_turn(room)
        app = present(kiosk="1", views="turn,nonsense,scorecard", seconds="10")
        for self.now_s in (10.0, 19.0, 20.0):
            app.run()
        assert [key for key, _tiles in room.boards] == [
            "present_turn",
            "present_scorecard",
            "present_scorecard",
            "present_turn",
        ]
        assert len(app.sidebar.children) == 0

    def test_without_a_choice_all_views_take_turns_and_never_in_a_hurry(self, present, room):
        app = present(kiosk="1", seconds="0")
        assert [key for key, _tiles in room.boards] == ["present_scorecard"]
        self.now_s = 4.9
        assert len(app.run().info) == 0
        self.now_s = 5.0
        assert "Nothing has been asked yet." in texts(app.run())


def test_every_page_with_a_presentation_offers_it(new_app, room, monkeypatch):
    monkeypatch.setattr(resources, "lanes", lambda: BOOK)
    app = new_app().run()
    app.button(key="present_start").click().run()
    assert app.query_params["present"] == "1"
