"""Model folders come into being once, whole, and with a note of how they were made."""

import json
import threading
import time
from pathlib import Path

import pytest

from core.domain.specs import Weights
from core.errors import ModelError
from core.i18n import N_
from core.models import model_folders
from core.models.model_folders import (
    PROVENANCE_FILE,
    list_models,
    read_provenance_note,
    say,
    stage_of,
    write_provenance,
)
from core.settings import load_settings


@pytest.fixture
def settings(tmp_path):
    return load_settings({"LMDYNO_HOME": str(tmp_path / "home")})


@pytest.fixture
def child(tmp_path, monkeypatch):
    """Put a program where `python -m child_program` finds it, and say how to run it."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    said: list[str] = []

    def run(program: str, report=said.append) -> list[str]:
        (tmp_path / "child_program.py").write_text(program, "utf-8")
        model_folders.run_child("child_program", ["one", "two"], tmp_path / "logs" / "child.log", report)
        return said

    return run


def test_a_folder_appears_only_when_it_is_complete(tmp_path):
    target = tmp_path / "models" / "m"
    with model_folders.staging(target) as draft:
        (draft / "weights").write_text("w")
        assert not target.exists()
    assert (target / "weights").read_text() == "w"
    assert [path.name for path in target.parent.iterdir()] == ["m"]


def test_a_failed_attempt_leaves_nothing_and_keeps_what_was_there(tmp_path):
    target = tmp_path / "m"
    target.mkdir()
    (target / "old").touch()
    with pytest.raises(FileNotFoundError), model_folders.staging(target) as draft:
        (draft / "half" / "way").touch()
    assert [path.name for path in tmp_path.rglob("*")] == ["m", "old"]


def test_an_incomplete_folder_and_a_killed_attempt_give_way(tmp_path):
    target = tmp_path / "m"
    for stale in (target / "stale", tmp_path / ".m.partial" / "stale"):
        stale.parent.mkdir()
        stale.touch()
    with model_folders.staging(target) as draft:
        (draft / "new").touch()
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["m", "new"]


def test_the_lock_lets_one_in_at_a_time(settings):
    inside: list[str] = []
    met: list[str] = []
    waiting: list[str] = []

    def work(name: str) -> None:
        with model_folders.exclusive(settings, "m", waiting.append):
            inside.append(name)
            time.sleep(0.1)
            if inside[-1] != name:
                met.append(name)

    threads = [threading.Thread(target=work, args=(name,)) for name in "abc"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
    assert sorted(inside) == ["a", "b", "c"]
    assert met == []
    assert len(waiting) == 2
    assert "Waiting" in waiting[0]


def test_too_little_space_is_said_with_both_sizes(tmp_path):
    model_folders.require_space(tmp_path / "not" / "there", 1, "m")
    with pytest.raises(ModelError, match=r"m needs 1048576\.00 GiB .* are free") as caught:
        model_folders.require_space(tmp_path, 2**50, "m")
    assert caught.value.code == "disk-full"
    assert "LMDYNO_HOME" in caught.value.hint


def test_a_child_reports_line_by_line(child):
    assert child("import sys\nprint('first')\nprint(*sys.argv[1:])\n") == ["first", "one two"]


def test_a_child_that_fails_is_quoted(child, tmp_path):
    with pytest.raises(ModelError, match="failed: ValueError: no such tensor") as caught:
        child("raise ValueError('no such tensor')\n")
    assert caught.value.code == "conversion-failed"
    assert "child.log" in caught.value.hint
    assert "Traceback" in (tmp_path / "logs" / "child.log").read_text()


def test_a_killed_child_is_told_from_a_failed_one(child):
    with pytest.raises(ModelError, match="ended by signal 9") as caught:
        child("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)\n")
    assert "memory" in caught.value.hint


def test_a_child_does_not_outlive_its_parents_change_of_mind(child):
    pids: list[int] = []

    def stop(line: str) -> None:
        pids.append(int(line))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        child("import os, time\nprint(os.getpid(), flush=True)\ntime.sleep(60)\n", report=stop)
    assert not Path(f"/proc/{pids[0]}").exists()


def test_a_stage_keeps_what_it_is_made_of(capsys):
    say(N_("Converting shard {number} of {count}", number=1, count=2))
    stage = stage_of(capsys.readouterr().out)
    assert stage == "Converting shard 1 of 2"
    assert stage.values == {"number": 1, "count": 2}


@pytest.mark.parametrize("line", ["a library's own line\n", "3\n", "{}\n"])
def test_any_other_line_is_a_stage_as_it_is(line):
    assert stage_of(line) == line.rstrip()


def test_provenance_says_from_what_and_with_what(tmp_path):
    began_s = time.time() - 2
    write_provenance(
        tmp_path, source={"file": "x"}, changes="padded", packages=("pytest", "not-there"), began_s=began_s
    )
    note = json.loads((tmp_path / PROVENANCE_FILE).read_text())
    assert note["source"] == {"file": "x"}
    assert note["versions"] == {"pytest": pytest.__version__, "not-there": None}
    assert 2 <= note["duration_s"] < 60


@pytest.mark.parametrize("content", [None, "{", "[]"])
def test_a_note_that_cannot_be_read_is_none(tmp_path, content):
    if content is not None:
        (tmp_path / PROVENANCE_FILE).write_text(content, "utf-8")

    assert read_provenance_note(tmp_path) is None


def fill(folder, **files):
    for name, text in files.items():
        path = folder / name.replace("__", "/").replace("_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def test_forms_sizes_and_origins(tmp_path):
    settings = load_settings({"LMDYNO_HOME": str(tmp_path)})
    assert list_models(settings) == ()

    note = {"source": {"package": "x"}}
    models = settings.models_dir
    fill(models / "demo", config_json="{}", model_safetensors="w" * 100, provenance_json=json.dumps(note))
    fill(models / "demo", gguf__q4_gguf="g" * 30)
    fill(models / "demo-awq", config_json="{}", model_safetensors="w" * 40, provenance_json="{broken")
    fill(models / "only-awq", config_json="{}")
    fill(models / ".demo.partial", config_json="{}")
    fill(models / "unfinished", model_safetensors="w")

    demo, only = list_models(settings)
    assert [(form.weights, form.size_bytes) for form in demo.forms] == [
        (Weights.CHECKPOINT, 102 + len(json.dumps(note))),
        (Weights.GGUF, 30),
        (Weights.AWQ, 42 + len("{broken")),
    ]
    assert demo.size_bytes == 174 + len(json.dumps(note)) + len("{broken")
    assert [form.provenance for form in demo.forms] == [note, note, None]
    assert (only.name, [form.weights for form in only.forms]) == ("only", [Weights.AWQ])
