"""The start page over stand-ins: introduction, first run, lanes."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
from page_fakes import BOOK, HF, HF_Q4

from core.bench.results.result import RunRecords
from core.chat_api.servers import Reach
from core.config import LaneRegistry
from core.domain.turns import ErrorInfo
from core.engines.registry import EngineState
from core.errors import StoreError
from core.jobs.registry import JobRecord, JobSpec, JobState, JobStatus
from core.replay.recording import SUFFIX
from core.reports.scorecard import ScorecardReader
from core.settings import Settings
from core.store.history import History
from core.store.runs import BenchRuns, QualityRuns
from core.ui.overview import landing
from core.ui.shared import jobs as shared_jobs
from core.ui.shared import resources
from tests.unit.bench.bench_samples import MACHINE
from tests.unit.quality import quality_samples
from tests.unit.reports.scorecard_samples import run_of

SLOW = [0.040, 0.042, 0.038, 0.041]
FAST = [0.010, 0.011, 0.009, 0.010]


@pytest.fixture
def home(world, monkeypatch, tmp_path):
    world.settings = Settings(
        home=tmp_path, lanes_file=tmp_path / "lanes.toml", database_url=f"sqlite:///{tmp_path / 'lmdyno.db'}"
    )
    world.jobs, world.reach = [], Reach(round_trip_s=0.0123)
    monkeypatch.setattr(resources, "resources", lambda: SimpleNamespace(settings=world.settings, gpu=False))
    monkeypatch.setattr(
        resources, "reachability", lambda: SimpleNamespace(of=lambda _name, _find: world.reach)
    )
    stores = [make(world.settings.database_url) for make in (BenchRuns, QualityRuns, History)]
    world.bench, world.quality, history = stores
    for name, store in (("bench_runs", world.bench), ("quality_runs", world.quality), ("history", history)):
        monkeypatch.setattr(resources, name, lambda store=store: store)
    reader = ScorecardReader(world.bench, world.quality, RunRecords(world.bench), describe=lambda: MACHINE)
    monkeypatch.setattr(resources, "scorecards", lambda: reader)
    jobs = SimpleNamespace(statuses=lambda _kind=None: tuple(world.jobs), log_tail=lambda _id: "the log")
    for module in (landing, shared_jobs):
        monkeypatch.setattr(module, "Jobs", lambda _settings: jobs)
    yield world
    for store in stores:
        store.close()


@pytest.fixture
def open_page(home, new_app):
    def open_at(**query):
        app = new_app(page=None, **query).run()
        assert not app.exception
        return app

    return open_at


def texts(app):
    kinds = (app.markdown, app.caption, app.error, app.info)
    return "\n".join(element.value for kind in kinds for element in kind).replace("\\", "")


def preparing(state=JobState.RUNNING, **record):
    spec = JobSpec(kind="demo", title="Demo models", worker="w", arguments={}, python="python")
    return JobStatus(spec, JobRecord(state=state, **record))


class TestIntroduction:
    def test_it_says_what_the_dashboard_is_and_where_to_go_on(self, open_page):
        app = open_page()
        assert "LMDyno runs the same prompts on several LLM inference engines" in texts(app)
        links = [link.proto.page for link in app.get("page_link") if link.proto.page != "recordings"]
        assert links == ["chat", "benchmark", "quality", "memory", "engines"]

    def test_a_recording_that_is_there_can_be_watched(self, open_page, monkeypatch, tmp_path):
        monkeypatch.setenv("LMDYNO_RECORDINGS", str(tmp_path))
        (tmp_path / f"lab{SUFFIX}").write_bytes(b"")
        app = open_page()
        first = app.get("page_link")[0]
        assert first.proto.page == "recordings"
        assert first.proto.query_string == "play=1"

    def test_closed_it_is_gone_and_the_browser_remembers(self, open_page):
        app = open_page()
        app.button(key="introduction_close").click().run()
        assert "LMDyno runs the same prompts" not in texts(app)
        assert any("lmdyno_introduction=closed" in html.proto.body for html in app.get("html"))
        app.button(key="introduction_open").click().run()
        assert "LMDyno runs the same prompts" in texts(app)
        assert any("lmdyno_introduction=open" in html.proto.body for html in app.get("html"))

    def test_a_browser_that_closed_it_does_not_see_it(self, open_page, monkeypatch):
        kept = {"lmdyno_introduction": "closed"}
        cookies = SimpleNamespace(to_dict=lambda: kept, get=kept.get)
        monkeypatch.setattr("streamlit.runtime.context.ContextProxy.cookies", cookies)
        assert "LMDyno runs the same prompts" not in texts(open_page())


class TestFirstRun:
    def test_weights_that_are_being_prepared_show_how_far_they_are_and_what_works(self, open_page, home):
        home.jobs = [preparing(stage="Unpacking", progress=0.4)]
        home.manager.states = {"hf-q4": EngineState.STARTING}
        app = open_page()
        assert "Demo models" in texts(app)
        assert "Ready to use now: **hf**, **remote**, and all pages." in texts(app)

    def test_without_any_lane_it_says_what_can_be_done(self, open_page, home, monkeypatch):
        home.jobs = [preparing()]
        home.manager.states = dict.fromkeys(("hf", "hf-q4"), EngineState.STARTING)
        monkeypatch.setattr(
            resources,
            "lanes",
            lambda: SimpleNamespace(lanes=BOOK.lanes[:2], models=(), source=None, cluster=None),
        )
        assert "Lanes start by themselves when their weights are there" in texts(open_page())

    @pytest.mark.parametrize("state", [JobState.DONE, JobState.CANCELLED])
    def test_afterwards_there_is_nothing_of_it(self, open_page, home, state):
        home.jobs = [preparing(state)]
        assert "Demo models" not in texts(open_page())

    def test_a_failure_is_told_while_lanes_lack_their_weights(self, open_page, home, monkeypatch):
        problem = ErrorInfo("disk-full", "The disk is full.", "Free 2 GB.")
        home.jobs = [preparing(JobState.FAILED, error=problem)]
        monkeypatch.setattr(landing.models_job, "are_demos_wanted", lambda _settings, _lanes: True)
        assert "The disk is full." in texts(open_page())
        monkeypatch.setattr(landing.models_job, "are_demos_wanted", lambda _settings, _lanes: False)
        assert "The disk is full." not in texts(open_page())


class TestLanes:
    def test_each_lane_says_what_it_does(self, open_page, home):
        home.manager.in_use = {"hf"}
        home.manager.finishing = {"hf-q4": 12.0}
        shown = texts(open_page())
        assert "**hf**  \n:violet-badge[:material/chat_bubble: answering]" in shown
        assert "**hf-q4**  \n:orange-badge[:material/hourglass_bottom: finishing a stopped request]" in shown
        assert "**remote**  \n:green-badge[:material/cloud_done: reachable]" in shown
        assert "Lists its models in 12.3 ms." in shown

    def test_an_idle_one_and_one_that_starts(self, open_page, home):
        home.manager.states = {"hf-q4": EngineState.STARTING}
        shown = texts(open_page())
        assert "**hf**  \n:green-badge[:material/check: idle]" in shown
        assert ":shimmer[Loading the weights] · 1 min 15 s" in shown

    def test_a_failed_one_says_why_and_starts_again(self, open_page, home):
        home.manager.states = {"hf": EngineState.FAILED}
        home.manager.errors = {"hf": ErrorInfo("out-of-memory", "Out of memory.", "Close other programs.")}
        app = open_page()
        assert "Out of memory. Close other programs." in texts(app)
        app.button(key="overview_start_hf").click().run()
        assert home.manager.restarted == ["hf"]

    def test_a_stopped_one_can_be_started_by_those_who_may(self, open_page, home):
        home.manager.states = {"hf": EngineState.STOPPED}
        assert "overview_start_hf" in [button.key for button in open_page().button]

    def test_a_viewer_is_not_offered_to_start_one(self, open_page, home, viewer):
        home.manager.states = {"hf": EngineState.STOPPED}
        assert "overview_start_hf" not in [button.key for button in open_page().button]

    def test_one_that_does_not_answer_says_so(self, open_page, home):
        home.reach = Reach(error=ErrorInfo("unreachable", "Nobody listens there.", ""))
        shown = texts(open_page())
        assert ":red-badge[:material/cloud_off: unreachable]" in shown
        assert "Nobody listens there." in shown

    def test_before_the_first_answer_it_is_connecting(self, open_page, home):
        home.reach = None
        assert ":gray-badge[:material/hourglass_top: connecting]" in texts(open_page())


def cells(app):
    """The scorecard's table, a row for each lane."""
    (table,) = app.table
    return [row.replace("\\", "") for row in table.value.astype(str).agg(" | ".join, axis=1)]


class TestScorecard:
    def test_an_empty_store_says_so_and_offers_the_run_that_fills_it(self, open_page):
        app = open_page()
        assert all(" – | – | – | – | – | –" in row for row in cells(app))
        assert "hf hasn't been measured yet." in texts(app)
        app.button(key="scorecard_measure").click().run()
        assert "bench_start" in [button.key for button in app.button]
        assert app.session_state["bench_lanes"] == ["hf", "hf-q4", "remote"]
        assert app.session_state["bench_baseline"] == "hf"

    def test_quality_is_offered_too(self, open_page):
        app = open_page()
        app.button(key="scorecard_quality").click().run()
        assert app.multiselect(key="quality_lanes").value == ["hf", "hf-q4", "remote"]
        assert app.selectbox(key="quality_reference").value == "hf"

    def test_measured_lanes_have_figures_with_n_and_a_verdict(self, open_page, home):
        record = run_of({HF: SLOW, HF_Q4: FAST})
        home.bench.save(record.run, record.passes, record.requests)
        app = open_page()
        hf, q4, _remote = cells(app)
        assert "**405 ms**  \n:small[n = 4]" in hf
        assert "**100 ms** :green[:material/trophy:]  \n:small[0.25× (0.2" in q4
        assert "tok/s at concurrency 1**" in hf
        assert "**1.00 GiB**" in hf
        assert "hf-q4 decodes 4.03 times as fast as hf" in texts(app)
        assert "Measure 1 lane" in [button.label for button in app.button]
        (link,) = [link for link in app.get("page_link") if link.proto.page == "history"]
        assert "run=r1" in link.proto.query_string

    def test_a_lane_whose_settings_changed_is_told_and_can_be_measured(self, open_page, home):
        changed = replace(HF_Q4, settings=replace(HF_Q4.settings, dtype="float32"))
        record = run_of({HF: SLOW, changed: FAST})
        home.bench.save(record.run, record.passes, record.requests)
        app = open_page()
        assert "hf-q4 was measured with other settings on 2026-03-01." in texts(app)
        app.button(key="scorecard_measure").click().run()
        assert app.session_state["bench_lanes"] == ["hf", "hf-q4", "remote"]

    def test_another_baseline_turns_the_ratios_round(self, open_page, home):
        record = run_of({HF: SLOW, HF_Q4: FAST})
        home.bench.save(record.run, record.passes, record.requests)
        app = open_page()
        app.selectbox(key="scorecard_baseline_tiny").set_value("hf-q4").run()
        assert "hf decodes 0.25 times as fast as hf-q4" in texts(app)

    def test_quality_is_shown_with_its_verdict(self, open_page, home, monkeypatch):
        lanes = (quality_samples.HF, quality_samples.TURBOMIND, quality_samples.AWQ)
        monkeypatch.setattr(resources, "lanes", lambda: LaneRegistry(models=(), lanes=lanes, source=None))
        home.manager.lanes = lanes
        record = quality_samples.record(machine=MACHINE)
        home.quality.add(record)
        home.manager.states = dict.fromkeys(("hf", "turbomind", "awq"), EngineState.STOPPED)
        app = open_page()
        assert "**60%** (31%–83%, n = 10)" in cells(app)[2]
        assert "awq is measurably worse than hf." in texts(app)

    def test_a_viewer_sees_it_and_is_offered_no_run(self, open_page, viewer):
        app = open_page()
        assert "hf hasn't been measured yet." in texts(app)
        assert "scorecard_measure" not in [button.key for button in app.button]

    def test_a_store_that_can_not_be_read_costs_the_section_only(self, open_page, home, monkeypatch):
        def broken(*_args):
            raise StoreError("The database is locked.", hint="Try again.")

        monkeypatch.setattr(resources, "scorecards", lambda: SimpleNamespace(scorecard=broken))
        app = open_page()
        assert "The database is locked." in texts(app)
        assert "**hf**  \n:green-badge" in texts(app)


def test_a_link_to_a_conversation_from_when_the_chat_was_the_start_page_leads_there(open_page):
    app = open_page(conversation="c1")
    assert app.query_params["conversation"] == "c1"
    assert len(app.chat_input) == 1
