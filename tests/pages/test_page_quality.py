"""The quality page over a store that the tests fill; runs are started, but not executed."""

from contextlib import closing
from dataclasses import replace
from types import SimpleNamespace

import pytest
from page_fakes import BOOK, HF

from core.config import LaneRegistry
from core.domain.runs import RunState
from core.domain.specs import EngineKind
from core.domain.turns import ErrorInfo
from core.errors import InputError, StoreError
from core.settings import Settings
from core.store.runs import QualityRuns
from core.ui.quality import form
from core.ui.shared import resources
from tests.unit.quality import quality_samples as samples

TURBOMIND = replace(HF, name="turbomind", kind=EngineKind.TURBOMIND)


@pytest.fixture
def home(world, monkeypatch, tmp_path):
    settings = Settings(
        home=tmp_path, lanes_file=tmp_path / "lanes.toml", database_url=f"sqlite:///{tmp_path / 'lmdyno.db'}"
    )
    started = []
    monkeypatch.setattr(resources, "resources", lambda: SimpleNamespace(settings=settings))
    monkeypatch.setattr(form, "start_quality", lambda _settings, plan: started.append(plan))
    with closing(QualityRuns(settings.database_url)) as runs:
        monkeypatch.setattr(resources, "quality_runs", lambda: runs)
        yield SimpleNamespace(runs=runs, started=started)


@pytest.fixture
def open_page(home, new_app):
    def open_at():
        app = new_app()
        app.switch_page("pages/quality.py").run()
        assert not app.exception
        return app

    return open_at


def texts(app):
    kinds = (app.markdown, app.caption, app.error, app.info, app.warning)
    return "\n".join(element.value for kind in kinds for element in kind)


def button(app, label):
    return next(each for each in app.button if each.label == label)


def named(elements, label):
    return next(each for each in elements if each.label == label)


def test_an_empty_page_says_that_nothing_was_compared(open_page):
    assert "No comparison has been made yet" in texts(open_page())


def test_a_run_is_started_with_what_the_form_says(home, open_page):
    app = open_page()
    app.selectbox(key="quality_reference").set_value("hf-q4").run()
    named(app.slider, "Prompts whose answers are compared token by token").set_value(4)
    button(app, "Compare").click().run()
    assert not app.exception
    (plan,) = home.started
    assert [lane.name for lane in plan.lanes] == ["hf", "hf-q4", "remote"]
    assert plan.reference == "hf-q4"
    assert len(plan.prompts) == 4
    assert len(plan.tasks) == 124
    assert plan.task_sets == ("english", "chinese")
    assert [text.kind for text in plan.texts] == ["own-answers", "python-docs"]


def test_a_quantised_kv_cache_is_a_lane_of_its_own(world, home, open_page, monkeypatch):
    world.manager.configure((HF, TURBOMIND))
    registry = LaneRegistry(models=BOOK.models, lanes=(HF, TURBOMIND), source=None)
    monkeypatch.setattr(resources, "lanes", lambda: registry)
    app = open_page()
    app.button_group(key="quality_kv").set_value([8, 4]).run()
    button(app, "Compare").click().run()
    lanes = {lane.name: lane.settings.quant_policy for lane in home.started[0].lanes}
    assert lanes == {"hf": 0, "turbomind": 0, "turbomind-kv8": 8, "turbomind-kv4": 4}


def test_a_plan_that_can_not_be_made_says_why(home, open_page, monkeypatch):
    app = open_page()
    named(app.slider, "Prompts whose answers are compared token by token").set_value(0)
    button(app, "Compare").click().run()
    assert "Own answers need prompts" in texts(app)
    assert not home.started


def test_a_second_run_is_refused_in_words(home, open_page, monkeypatch):
    def busy(*_):
        raise InputError("A comparison is already running", hint="Wait for it to finish, or stop it.")

    monkeypatch.setattr(form, "start_quality", busy)
    app = open_page()
    button(app, "Compare").click().run()
    assert "A comparison is already running" in texts(app)


def test_results_show_verdicts_figures_charts_and_answers(home, open_page):
    home.runs.add(samples.record())
    app = open_page()
    shown = texts(app)
    assert "awq is measurably worse than hf." in shown
    assert "turbomind shows no measurable difference from hf." in shown
    assert "Compared intentionally" in shown
    table = app.table[0].value
    assert list(table["Same answers"]) == ["–", "3 of 3", "1 of 3"]
    assert "1.100 (+0.100)" in table.to_string()
    assert len(app.get("plotly_chart")) == 4
    assert app.get("download_button")


def test_the_answers_of_a_lane_stand_beside_the_references(home, open_page):
    home.runs.add(samples.record())
    app = open_page()
    app.button_group(key="answers_lane_q1").set_value("awq").run()
    shown = texts(app)
    assert "What is 0 + 0?" in shown
    assert "Expected: 0" in shown
    assert ":orange-background[fiend.]" in shown
    assert "The first different token is number 18." in shown
    lost = next(label for label in form_options(app, "answers_filter_q1") if label == "Lost")
    app.button_group(key="answers_filter_q1").set_value(lost).run()
    assert "3 answers" in texts(app)


def form_options(app, key):
    return list(app.button_group(key=key).options)


def test_a_failed_run_shows_its_error_and_what_it_has(home, open_page):
    home.runs.add(samples.record(state=RunState.FAILED, error=ErrorInfo("engine-crashed", "The engine died")))
    shown = texts(open_page())
    assert "The engine died" in shown
    assert "awq is measurably worse" in shown


def test_a_run_without_logits_or_texts_shows_what_it_has(home, open_page):
    record = samples.record()
    bare = replace(record.run, lanes=tuple(replace(lane, scores=()) for lane in record.run.lanes))
    home.runs.add(replace(record, run=bare))
    app = open_page()
    assert "6 of 10 tasks are correct" in texts(app)
    assert "–" in app.table[0].value.to_string()


def test_a_store_that_can_not_be_read_is_an_error_in_words(home, open_page, monkeypatch):
    def broken(_limit):
        raise StoreError("The store is locked", hint="Try again.")

    monkeypatch.setattr(home.runs, "latest", broken)
    assert "The store is locked" in texts(open_page())
