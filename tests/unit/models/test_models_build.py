"""Model folders come into being once, whole, and with a word on what went wrong if not."""

import threading
import time
from pathlib import Path

import pytest

from core.errors import ModelError
from core.models import build as conversion
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
        conversion.run_child("child_program", ["one", "two"], tmp_path / "logs" / "child.log", report)
        return said

    return run


def test_a_folder_appears_only_when_it_is_complete(tmp_path):
    target = tmp_path / "models" / "m"
    with conversion.staging(target) as draft:
        (draft / "weights").write_text("w")
        assert not target.exists()
    assert (target / "weights").read_text() == "w"
    assert [path.name for path in target.parent.iterdir()] == ["m"]


def test_a_failed_attempt_leaves_nothing_and_keeps_what_was_there(tmp_path):
    target = tmp_path / "m"
    target.mkdir()
    (target / "old").touch()
    with pytest.raises(FileNotFoundError), conversion.staging(target) as draft:
        (draft / "half" / "way").touch()
    assert [path.name for path in tmp_path.rglob("*")] == ["m", "old"]


def test_an_incomplete_folder_and_a_killed_attempt_give_way(tmp_path):
    target = tmp_path / "m"
    for stale in (target / "stale", tmp_path / ".m.partial" / "stale"):
        stale.parent.mkdir()
        stale.touch()
    with conversion.staging(target) as draft:
        (draft / "new").touch()
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["m", "new"]


def test_the_lock_lets_one_in_at_a_time(settings):
    inside: list[str] = []
    met: list[str] = []
    waiting: list[str] = []

    def work(name: str) -> None:
        with conversion.exclusive(settings, "m", waiting.append):
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
    conversion.require_space(tmp_path / "not" / "there", 1, "m")
    with pytest.raises(ModelError, match=r"m needs 1048576\.00 GiB .* are free") as caught:
        conversion.require_space(tmp_path, 2**50, "m")
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
