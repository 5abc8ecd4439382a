"""The walk's section: start it, and see its steps and reports."""

from contextlib import closing
from types import SimpleNamespace

import page_fakes
import pytest
from streamlit.testing.v1 import AppTest

from core.jobs.records import JobFolder, JobRecord, JobSpec, JobState
from core.settings import load_settings
from core.store.history import History
from core.store.runs.job_results import Walks
from core.ui.engines import walk as walk_section
from core.ui.shared import resources
from core.walk.job import save
from tests.unit.replay.recorded import walk


def page():
    from core.ui.engines.walk import show_section

    show_section()


@pytest.fixture
def settings(tmp_path, monkeypatch):
    settings = load_settings({"LMDYNO_HOME": str(tmp_path)})
    monkeypatch.setattr(resources, "resources", lambda: SimpleNamespace(settings=settings))
    monkeypatch.setattr(resources, "lanes", lambda: page_fakes.BOOK)
    with closing(History(settings.database_url)) as history:
        monkeypatch.setattr(resources, "history", lambda: history)
        yield settings


def opened():
    app = AppTest.from_function(page, default_timeout=30).run()
    assert not app.exception
    return app


def text_of(app):
    return "\n".join(element.value for element in (*app.markdown, *app.caption)).replace("\\", "")


def test_a_walk_starts_with_the_chosen_model(settings, monkeypatch):
    started = []
    monkeypatch.setattr(walk_section, "start_walk", lambda settings, model: started.append(model))
    app = opened()
    assert app.selectbox[0].options == ["tiny"]
    app.button[0].click().run()
    assert started == ["tiny"]


def test_steps_show_while_the_walk_runs(settings):
    run = walk(3.0, 0.0)
    save(settings, run)
    folder = JobFolder(settings.home / "jobs" / run.id)
    spec = JobSpec(
        id=run.id, kind="walk", title="Walk with tiny", worker="core.walk.worker", arguments={}, python="x"
    )
    folder.create(spec)
    folder.write(JobRecord(state=JobState.DONE))
    text = text_of(opened())
    assert "1. Check the environment" in text
    assert "1 steps done, 1 skipped, 0 failed" in text


def test_reports_of_earlier_walks_are_linked(settings, monkeypatch):
    with closing(Walks(settings.database_url)) as walks:
        walks.save(walk(1.0))
    links = []
    monkeypatch.setattr(walk_section.st, "page_link", lambda page, **more: links.append(more["query_params"]))
    assert "Reports" in [element.value for element in opened().subheader]
    assert links == [{"walk": "walk00001"}]
