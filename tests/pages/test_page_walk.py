"""The walk's section: start it, and see its steps and reports."""

from contextlib import closing
from dataclasses import replace
from types import SimpleNamespace

import page_fakes
import pytest
from streamlit.testing.v1 import AppTest

from core.codec import encode
from core.domain.specs import ClusterSpec, ModelSpec
from core.domain.walk import walk_title
from core.engines.resolve import nodes_file
from core.files import write_atomically
from core.jobs.registry import JobFolder, JobRecord, JobSpec, JobState
from core.settings import load_settings
from core.store.history import History
from core.store.run_tables import Walks
from core.telemetry.processes import this_process
from core.ui.engines import walk as walk_section
from core.ui.shared import resources
from core.walk.job import save
from tests.unit.engines.node_samples import a_lost_node, a_node, a_snapshot
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
    monkeypatch.setattr(
        walk_section, "start_walk", lambda settings, model, *, node: started.append((model, node))
    )
    app = opened()
    (models,) = app.selectbox
    assert models.options == ["tiny"]
    app.button[0].click().run()
    assert started == [("tiny", None)]


@pytest.fixture
def cluster(settings, monkeypatch):
    """Lanes of which one belongs to the node gpu1; returns what writes the cluster's last state."""
    there = replace(page_fakes.HF, name="big", model=ModelSpec(name="big", checkpoint="/m"), node="gpu1")
    book = replace(
        page_fakes.BOOK, lanes=(*page_fakes.BOOK.lanes, there), cluster=ClusterSpec(address="auto")
    )
    monkeypatch.setattr(resources, "lanes", lambda: book)
    return lambda snapshot: write_atomically(nodes_file(settings), encode(snapshot))


def test_a_walk_starts_on_the_chosen_node_with_a_model_of_its_lanes(settings, cluster, monkeypatch):
    started = []
    monkeypatch.setattr(
        walk_section, "start_walk", lambda settings, model, *, node: started.append((model, node))
    )
    cluster(a_snapshot(a_node(), a_lost_node()))
    app = opened()
    node, models = app.selectbox
    assert node.options == ["This machine", "gpu1"]
    assert models.options == ["tiny"]
    assert "Node gpu2 stopped answering. Check the machine." in text_of(app)
    node.set_value("gpu1").run()
    assert app.selectbox[1].options == ["big", "tiny"]
    app.button[0].click().run()
    assert started == [("big", "gpu1")]


def test_a_node_that_was_lost_since_it_was_chosen_is_refused(settings, cluster, monkeypatch):
    started = []
    monkeypatch.setattr(walk_section, "start_walk", lambda *arguments, **more: started.append(more))
    cluster(a_snapshot(a_node(), a_node("gpu2")))
    app = opened()
    app.selectbox[0].set_value("gpu2").run()
    cluster(a_snapshot(a_node(), a_lost_node()))
    app.button[0].click().run()
    assert app.selectbox[0].value == "gpu2"
    assert [error.value.split("\n")[0] for error in app.error] == ["Node gpu2 stopped answering."]
    assert started == []


def test_every_walk_that_runs_is_shown(settings):
    for name, node in (("walk1", "gpu1"), ("walk2", None)):
        folder = JobFolder(settings.home / "jobs" / name)
        folder.create(
            JobSpec(
                id=name,
                kind="walk",
                title=walk_title("tiny", node),
                worker="core.walk.job",
                arguments={},
                python="x",
            )
        )
        folder.write(JobRecord(state=JobState.RUNNING, runner=this_process()))
    text = text_of(opened())
    assert "Walk with tiny on node gpu1" in text
    assert "**Walk with tiny**" in text


def test_steps_show_while_the_walk_runs(settings):
    run = walk(3.0, 0.0)
    save(settings, run)
    folder = JobFolder(settings.home / "jobs" / run.id)
    spec = JobSpec(
        id=run.id, kind="walk", title="Walk with tiny", worker="core.walk.job", arguments={}, python="x"
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
