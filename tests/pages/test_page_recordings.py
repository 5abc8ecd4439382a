"""The recordings' page, and a dashboard that only replays."""

from types import SimpleNamespace

import page_fakes
import pytest
import streamlit as st
from streamlit.testing.v1 import AppTest

from core.access.guard import is_read_only, make_read_only
from core.replay import recording
from core.replay.recording import write
from core.settings import PROJECT_ROOT
from core.ui import replay
from core.ui.shared import resources, shell
from tests.unit.replay.test_replay_recording import RECORDING, RUN, TURN, VOTED


@pytest.fixture
def folder(tmp_path, monkeypatch):
    folder = tmp_path / "recordings"
    write(RECORDING, folder / "demo.json.xz", paths={"/home/ada": "HOME"})
    monkeypatch.setenv("LMDYNO_RECORDINGS", str(folder))
    recording.recordings_in.cache_clear()
    yield folder
    recording.recordings_in.cache_clear()


@pytest.fixture
def clock(monkeypatch):
    clock = SimpleNamespace(now_s=100.0)

    def sleep(seconds):
        clock.now_s += seconds

    monkeypatch.setattr(replay, "monotonic", lambda: clock.now_s)
    monkeypatch.setattr(replay, "sleep", sleep)
    return clock


@pytest.fixture
def replaying(folder, tmp_path, monkeypatch):
    """The whole dashboard in replay mode, with its real resources."""
    monkeypatch.setenv("LMDYNO_MODE", "replay")
    monkeypatch.setenv("LMDYNO_HOME", str(tmp_path / "never"))
    st.cache_resource.clear()
    yield lambda: AppTest.from_file(str(PROJECT_ROOT / "streamlit_app.py"), default_timeout=30)
    resources.resources().close()
    st.cache_resource.clear()
    make_read_only(False)


def text_of(app):
    kinds = (app.markdown, app.caption, app.error, app.info, app.warning)
    return "\n".join(element.value for kind in kinds for element in kind).replace("\\", "")


def test_the_demo_plays_every_part_to_its_end(folder, world, clock, new_app, monkeypatch):
    app = new_app(play="1")
    app.switch_page("pages/recordings.py").run()
    assert not app.exception
    text = text_of(app)
    assert "Recorded on NVIDIA H200, 2026-11-29" in text
    assert "3 of 3 · **Walk with tiny**" in text
    assert "1. Check the environment" in text
    assert [button.label for button in app.button][-3:] == ["Play again", "To the beginning", "To the end"]
    assert clock.now_s > 100.0
    assert world.store.turns == {}


def test_a_part_has_its_own_player(folder, world, clock, new_app):
    app = new_app()
    app.switch_page("pages/recordings.py").run()
    choice = next(box for box in app.selectbox if box.label == "Show")
    assert choice.options == [
        "The 60-second demo",
        "Chat: Hi",
        f"Benchmark: {RUN.run.title}",
        "Walk with tiny",
    ]
    choice.select_index(1).run()
    assert not app.exception
    assert "Waiting for the first token" in text_of(app)
    assert page_fakes.BOOK.lanes[0].name in text_of(app)


def test_without_a_recording_the_page_says_so(folder, world, new_app):
    (folder / "demo.json.xz").unlink()
    app = new_app()
    app.switch_page("pages/recordings.py").run()
    assert "No recording comes with" in text_of(app)


def test_replay_mode_shows_recordings_and_offers_nothing_that_changes_them(replaying, tmp_path):
    app = replaying().run()
    assert not app.exception
    assert is_read_only()
    assert "Recordings only. Nothing is measured here." in text_of(app)
    assert app.title[0].value == "Recordings"
    app.switch_page("pages/history.py").run()
    assert len(app.dataframe[0].value) == 4
    assert [button.label for button in app.button] == ["Open", "Compare"]
    app.switch_page("pages/sessions.py").run()
    assert not app.exception
    assert [button.label for button in app.button] == ["Open"]
    app.button[0].click().run()
    assert not app.exception
    assert VOTED.session.plan.title in text_of(app)
    assert not [
        button.label for button in app.button if not button.disabled and "essions" not in button.label
    ]
    assert not (tmp_path / "never").exists()


@pytest.mark.parametrize("entry", [{"turn": TURN.id}, {"run": RUN.run.id}, {"walk": "walk00001"}])
def test_replay_mode_shows_each_entry_with_a_link_and_a_replay(replaying, entry):
    app = replaying()
    for name, value in entry.items():
        app.query_params[name] = value
    app.run()
    app.switch_page("pages/history.py").run()
    assert not app.exception
    (key,) = [toggle.key for toggle in app.toggle if toggle.key.startswith("history_replay")]
    app.toggle(key=key).set_value(True).run()
    assert not app.exception
    assert "Recorded on" in text_of(app)
    assert "Delete" not in [button.label for button in app.button]


def test_pages_that_need_engines_are_not_there(monkeypatch):
    monkeypatch.setenv("LMDYNO_MODE", "replay")
    monkeypatch.setattr(shell.st, "Page", lambda path, **more: path.name)
    assert shell.pages() == ["recordings.py", "sessions.py", "history.py"]
