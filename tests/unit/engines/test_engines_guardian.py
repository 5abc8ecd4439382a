"""Engines of a killed LMDyno process: ended in time, but never while somebody sees to them or uses them."""

from contextlib import closing
from dataclasses import replace

import psutil
import pytest

from core.engines import guardian as guardian_module
from core.engines.guardian import Guardian, is_abandoned, is_guarded
from core.engines.manager import EngineManager
from core.engines.registry import EngineState, Registry, lease
from core.engines.resolve import find_endpoint
from core.errors import ConfigError, EngineError
from core.files import lock_path, try_lock, unlock
from tests.unit.engines.engine_stand_ins import gone, lane_in, rows, settings_in, wait_for


def guardians(home):
    """The guardian processes of a home."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        command = process.info["cmdline"] or []
        if "core.engines.guardian" in command and str(home) in command:
            found.append(process)
    return found


def entry_of(home):
    return Registry(settings_in(home)).get("hf")


def look(guardian, *times_s):
    for now_s in times_s:
        guardian.look(now_s)


@pytest.fixture
def guardian(tmp_path):
    """A guardian within the test, whose clock is the test's."""
    return Guardian(settings_in(tmp_path), 60.0, grace_s=1.0)


def test_engine_of_a_killed_process_is_ended_by_the_guardian_process(beside, tmp_path):
    owner = beside(end_after="0.5")
    pid = owner.start()
    [guardian] = guardians(tmp_path)
    owner.kill()
    wait_for(lambda: gone(pid))
    wait_for(lambda: entry_of(tmp_path).state is EngineState.STOPPED)
    assert entry_of(tmp_path).error.code == "engine-abandoned"
    with pytest.raises(EngineError, match="nobody used the engine"):
        find_endpoint(settings_in(tmp_path), lane_in(tmp_path))
    wait_for(lambda: gone(guardian.pid))


def test_children_of_an_abandoned_engine_end_with_it(beside, guardian, tmp_path):
    owner = beside("--child", "session", "--stubborn")
    pid = owner.start()
    child = psutil.Process(pid).children()[0]
    owner.kill()
    look(guardian, 0, 59)
    assert [gone(pid), gone(child.pid)] == [False, False]
    look(guardian, 60)
    assert [gone(pid), gone(child.pid)] == [True, True]


def test_engine_that_hangs_while_its_starter_is_killed_is_ended(beside, tmp_path):
    owner = beside("--hang", end_after="0.5")
    owner.go()
    assert owner.line() == "started"
    pid = wait_for(lambda: (entry := entry_of(tmp_path)) and entry.process and entry.process.pid)
    owner.kill()
    wait_for(lambda: gone(pid))
    wait_for(lambda: entry_of(tmp_path).state is EngineState.FAILED)
    assert entry_of(tmp_path).error.code == "engine-start-abandoned"


def test_guardian_ends_with_the_last_engine(beside, tmp_path):
    owner = beside(end_after="60")
    owner.start()
    [guardian] = guardians(tmp_path)
    owner.close()
    wait_for(lambda: gone(guardian.pid))


def test_killed_guardian_is_replaced(beside, tmp_path, monkeypatch):
    monkeypatch.setattr("core.engines.manager._HEALTH_INTERVAL_S", 0.1)
    owner = beside(end_after="60")
    owner.start()
    settings = settings_in(tmp_path, end_engines_after="60")
    with closing(EngineManager(settings, [lane_in(tmp_path)], rows=rows(), grace_s=1.0)) as other:
        [first] = guardians(tmp_path)
        first.kill()
        wait_for(lambda: gone(first.pid))
        other.ensure("hf")
        wait_for(lambda: [process for process in guardians(tmp_path) if process.pid != first.pid])


def test_engine_whose_user_lives_on_is_taken_over(beside, tmp_path):
    """Another dashboard that used the engine keeps it, without asking for it again."""
    owner = beside()
    pid = owner.start()
    settings = settings_in(tmp_path)
    with closing(EngineManager(settings, [lane_in(tmp_path)], rows=rows(), grace_s=1.0)) as other:
        other.ensure("hf")
        assert not other.status("hf").owned
        owner.kill()
        wait_for(lambda: other.status("hf").owned)
        assert not is_abandoned(entry_of(tmp_path))
    assert gone(pid)


def test_dashboard_takes_over_engines_that_nobody_has_asked_it_for(beside, tmp_path):
    owner = beside()
    owner.start()
    owner.kill()
    with closing(EngineManager(settings_in(tmp_path), [lane_in(tmp_path)], rows=rows(), grace_s=1.0)) as new:
        new.adopt_orphans()
        wait_for(lambda: new.status("hf").owned)


def test_dashboard_leaves_an_engine_with_other_settings_to_the_guardian(beside, tmp_path):
    owner = beside()
    owner.start()
    owner.kill()
    lane = lane_in(tmp_path, dtype="float32")
    with closing(EngineManager(settings_in(tmp_path), [lane], rows=rows(), grace_s=1.0)) as new:
        new._adopt(entry_of(tmp_path))
        assert is_abandoned(entry_of(tmp_path))


def test_time_begins_when_the_last_request_ends(beside, guardian, tmp_path):
    owner = beside()
    pid = owner.start()
    owner.kill()
    with lease(settings_in(tmp_path), "hf"):
        look(guardian, 0, 100)
    look(guardian, 101, 159)
    assert not gone(pid)
    look(guardian, 160)
    assert gone(pid)


def test_engine_that_was_taken_over_is_left_alone(beside, guardian, tmp_path):
    owner = beside()
    pid = owner.start()
    owner.kill()
    look(guardian, 0)
    abandoned = entry_of(tmp_path)
    with closing(EngineManager(settings_in(tmp_path), [lane_in(tmp_path)], rows=rows(), grace_s=1.0)) as new:
        new.ensure("hf")
        look(guardian, 100)
        guardian._end(abandoned)
        assert not gone(pid)
        assert entry_of(tmp_path).state is EngineState.HEALTHY


def test_time_begins_anew_for_an_engine_that_had_an_owner_again(beside, guardian, tmp_path):
    first = beside()
    pid = first.start()
    first.kill()
    look(guardian, 0)
    second = beside()
    assert second.start() == pid
    look(guardian, 50)
    second.kill()
    look(guardian, 100, 159)
    assert not gone(pid)
    look(guardian, 160)
    assert gone(pid)


def test_persistent_engine_is_nobodys_to_end(beside, guardian, tmp_path):
    owner = beside("--persistent")
    pid = owner.start()
    owner.kill()
    assert not is_guarded(entry_of(tmp_path))
    look(guardian, 0, 1000)
    assert not gone(pid)


def test_engine_that_failed_keeps_its_reason(beside, guardian, tmp_path):
    owner = beside("--child", "session", "--say", "RuntimeError: lost")
    pid = owner.start()
    child = psutil.Process(pid).children()[0]
    owner.kill()
    psutil.Process(pid).kill()
    wait_for(lambda: gone(pid))
    look(guardian, 0, 60)
    assert gone(child.pid)
    assert entry_of(tmp_path).state is EngineState.FAILED
    assert "RuntimeError: lost" in entry_of(tmp_path).error.message


def test_guardian_leaves_only_when_nothing_is_guarded(beside, guardian, tmp_path):
    owner = beside()
    owner.start()
    path = lock_path(settings_in(tmp_path).locks_dir, "guardian")
    lock = try_lock(path)
    assert not guardian.leave(lock)
    assert try_lock(path) is None
    owner.close()
    assert guardian.leave(lock)
    unlock(try_lock(path))


def test_guardian_leaves_a_home_that_was_deleted(tmp_path):
    home = tmp_path / "gone"
    assert Guardian(settings_in(home), 60.0).leave(-1)
    assert not home.exists()


@pytest.mark.parametrize("value", ["soon", "0", "-1", "nan", "inf"])
def test_time_that_is_none_is_refused(tmp_path, value):
    settings = replace(settings_in(tmp_path), end_engines_after=value)
    with pytest.raises(ConfigError, match="LMDYNO_END_ENGINES_AFTER"):
        EngineManager(settings, [lane_in(tmp_path)])


def test_never_starts_no_guardian(beside, tmp_path):
    beside(end_after="never").start()
    assert not guardians(tmp_path)
    assert settings_in(tmp_path, end_engines_after="never").end_engines_after_s is None


@pytest.fixture
def quick_process(monkeypatch):
    """`main` in this process, without its pauses and without what it sets for a whole process."""
    monkeypatch.setattr(guardian_module, "_LOOK_S", 0.0)
    monkeypatch.setattr(guardian_module, "keep_to_oneself", lambda: None)
    monkeypatch.setattr(guardian_module.process_setup, "configure_logs", lambda: None)


@pytest.mark.usefixtures("quick_process")
def test_a_look_that_fails_is_followed_by_another(tmp_path, monkeypatch):
    looks = []

    def look(_guardian, _now_s):
        looks.append(len(looks))
        raise OSError("No space left on device")

    monkeypatch.setattr(Guardian, "look", look)
    monkeypatch.setattr(Guardian, "leave", lambda _guardian, _lock: len(looks) == 3)
    guardian_module.main(tmp_path, 1.0)
    assert len(looks) == 3


@pytest.mark.usefixtures("quick_process")
def test_a_guardian_that_always_fails_gives_up(tmp_path, monkeypatch):
    def leave(_guardian, _lock):
        raise PermissionError("not yours")

    monkeypatch.setattr(guardian_module, "_MOST_FAILURES", 5)
    monkeypatch.setattr(Guardian, "leave", leave)
    guardian_module.main(tmp_path, 1.0)
