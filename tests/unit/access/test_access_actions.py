"""Every way in the core to change something asks the guard."""

import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest

from core.access.guard import Action, acting_as
from core.access.identity import NOBODY, Identity, Role, Visibility
from core.chat_api.servers import probe
from core.config import changes_file, forget_lane, load_lanes, save_lane
from core.domain.specs import Dialect, Endpoint
from core.domain.turns import utc_now
from core.engines.manager import EngineManager
from core.engines.registry import EngineEntry, EngineState, Registry
from core.errors import AccessDenied
from core.jobs.registry import JobFolder, JobRecord, Jobs, JobSpec, JobState
from core.settings import PROJECT_ROOT, load_settings
from core.store.audit import AuditLog
from core.telemetry.processes import this_process

BOB = Identity(id="bob@example.com", name="Bob", role=Role.VIEWER, login="b")
ADA = Identity(id="ada@example.com", name="Ada", role=Role.OPERATOR, login="a")
POWERLESS = pytest.mark.parametrize("identity", [BOB, NOBODY], ids=["viewer", "nobody"])


@pytest.fixture
def settings(tmp_path):
    home = tmp_path / "home"
    return replace(load_settings({"LMDYNO_HOME": str(home)}), lanes_file=tmp_path / "none.toml")


@pytest.fixture
def hf(settings):
    return load_lanes(settings, gpu=False).lane("hf")


@pytest.fixture
def manager(settings, hf):
    manager = EngineManager(settings, [hf])
    yield manager
    manager.close()


@POWERLESS
def test_engines(manager, settings, identity):
    with acting_as(identity):
        for action in (manager.ensure, manager.stop, manager.restart):
            with pytest.raises(AccessDenied):
                action("hf")
    assert not Registry(settings).read()


@POWERLESS
def test_an_engine_that_runs_needs_no_leave_to_be_used(manager, settings, hf, identity):
    owner = this_process()
    entry = EngineEntry(
        lane=hf,
        state=EngineState.HEALTHY,
        since=utc_now(),
        owner=owner,
        worker=owner,
        process=owner,
        port=1,
        endpoint=Endpoint(url="http://127.0.0.1:1/v1", model="m", dialect=Dialect.TRANSFORMERS),
        log_file="none.log",
    )
    with Registry(settings).changing() as engines:
        engines["hf"] = entry
    with acting_as(identity):
        manager.ensure("hf")
    with Registry(settings).changing() as engines:
        assert engines.pop("hf") == entry


@POWERLESS
def test_lanes(settings, hf, identity):
    with acting_as(identity):
        with pytest.raises(AccessDenied):
            save_lane(settings, hf)
        with pytest.raises(AccessDenied):
            forget_lane(settings, "hf")
    assert not changes_file(settings).exists()


@POWERLESS
def test_jobs(settings, identity):
    spec = JobSpec(kind="test", title="a test", worker="none", arguments={}, python="none")
    with acting_as(identity), pytest.raises(AccessDenied):
        Jobs(settings).start(spec)
    assert Jobs(settings).statuses() == ()
    folder = JobFolder(settings.home / "jobs" / spec.id)
    folder.create(spec)
    folder.write(JobRecord(state=JobState.RUNNING, runner=this_process()))
    with acting_as(identity), pytest.raises(AccessDenied):
        Jobs(settings).cancel(spec.id)
    assert folder.cancel_asked_at() is None


@POWERLESS
def test_requests_to_anywhere(identity):
    with acting_as(identity), pytest.raises(AccessDenied):
        probe("http://127.0.0.1:9/v1")


def test_jobs_of_others_that_have_ended_are_not_listed(settings):
    specs = [
        JobSpec(kind="test", title=state, worker="none", arguments={}, python="none", owner=owner)
        for owner in (ADA.id, BOB.id, None)
        for state in JobState
    ]
    for spec in specs:
        folder = JobFolder(settings.home / "jobs" / spec.id)
        folder.create(spec)
        folder.write(JobRecord(state=JobState(spec.title), runner=this_process()))
    assert len(Jobs(settings).statuses()) == len(specs)
    with acting_as(replace(BOB, sees=Visibility.LINK)):
        found = Jobs(settings).statuses()
    others = {status.state for status in found if status.spec.owner != BOB.id}
    assert others == {JobState.QUEUED, JobState.RUNNING}
    assert len([status for status in found if status.spec.owner == BOB.id]) == len(JobState)


def test_the_command_line_is_in_the_audit_log_too(settings):
    database_url = f"sqlite:///{settings.home / 'lmdyno.db'}"
    environ = {
        **os.environ,
        "LMDYNO_HOME": str(settings.home),
        "LMDYNO_DATABASE_URL": database_url,
        "USER": "ada",
        "LOGNAME": "ada",
    }
    for command in (["engines", "stop", "hf"], ["engines", "list"]):
        subprocess.run(
            [sys.executable, "-m", "core", *command],
            cwd=PROJECT_ROOT,
            env=environ,
            check=True,
            capture_output=True,
            timeout=120,
        )
    log = AuditLog(database_url)
    assert [(entry.name, entry.action, entry.target) for entry in log.entries()] == [
        ("ada, command line", Action.STOP_ENGINE, "hf")
    ]
    log.close()


def test_a_worker_acts_for_whoever_started_it(settings):
    spec = JobSpec(kind="test", title="a test", worker="no.such.worker", arguments={}, python="/no/python")
    with acting_as(ADA):
        job = Jobs(settings).start(spec)
    kept = JobFolder(settings.home / "jobs" / job).spec()
    assert kept.owner == ADA.id
    assert json.loads(kept.env["LMDYNO_ACTING_FOR"]) == ["ada@example.com", "Ada"]
