"""Starting, watching and stopping engines, with real processes."""

import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from core.config import demo_model
from core.domain.specs import EndpointSpec, EngineKind, LaneSpec
from core.domain.turns import ErrorInfo
from core.engines.manager import EngineManager
from core.engines.registry import EngineState, Registry, in_use, lease
from core.engines.resolve import find_endpoint
from core.errors import (
    ConfigError,
    EngineBusy,
    EngineCrashed,
    EngineError,
    EngineLoadFailed,
    EngineOutOfMemory,
    EngineTimeout,
    WrongBackend,
)
from core.jobs.registry import JobFolder, JobRecord, JobSpec, JobState
from core.models.job import PREPARING_DEMOS
from core.telemetry.processes import this_process
from core.telemetry.samples import GpuFacts
from tests.unit.engines.engine_stand_ins import gone, lane_in, row, rows, settings_in, wait_for

GIB = 2**30


@pytest.fixture
def make(tmp_path):
    """Builds managers over one home; all engines are ended afterwards, whoever owns them."""
    made = []

    def build(table, *lanes, **options):
        manager = EngineManager(
            settings_in(tmp_path), lanes or [lane_in(tmp_path)], rows=table, **{"grace_s": 1.0, **options}
        )
        made.append(manager)
        return manager

    yield build
    for manager in made:
        for status in manager.statuses():
            manager.stop(status.name, force=True)
        manager.close()


def healthy(manager, name="hf"):
    manager.ensure(name)
    return manager.wait_until_healthy(name, 30)


def ask(url):
    """A streamed answer; the connection stays open until it is read."""
    request = urllib.request.Request(f"{url}/chat/completions", data=b"{}", method="POST")
    return urllib.request.urlopen(request, timeout=20)


class TestWeightsThatAreBeingMade:
    """The demo model's: one job makes its forms, and the engines wait for it."""

    @pytest.fixture
    def lanes(self, tmp_path):
        demo = demo_model(settings_in(tmp_path))
        return tuple(replace(lane_in(tmp_path, name), model=demo) for name in ("hf", "second"))

    @pytest.fixture
    def job(self, tmp_path):
        spec = JobSpec(kind=PREPARING_DEMOS, title="x", worker="none", arguments={}, python="none")
        folder = JobFolder(tmp_path / "jobs" / spec.id)
        folder.create(spec)
        folder.write(JobRecord(state=JobState.RUNNING, runner=this_process(), stage="Downloading"))
        return folder

    def test_engines_wait_for_them_and_start_in_order(self, make, tmp_path, lanes, job):
        manager = make(rows(), *lanes)
        manager.ensure("hf")
        manager.ensure("second")
        for name in ("hf", "second"):
            wait_for(lambda name=name: "Downloading" in (manager.status(name).stage or ""))
        (tmp_path / "model").rename(_made(lanes[0]))
        job.write(JobRecord(state=JobState.DONE))

        for name in ("hf", "second"):
            manager.wait_until_healthy(name, 30)
        first, second = (manager.status(name).pid for name in ("hf", "second"))
        assert psutil.Process(first).create_time() <= psutil.Process(second).create_time()

    def test_a_failed_job_is_the_engines_failure(self, make, lanes, job):
        manager = make(rows(), *lanes)
        manager.ensure("hf")
        wait_for(lambda: "Downloading" in (manager.status("hf").stage or ""))
        error = ErrorInfo("download-failed", "pip couldn't download it", "Check the network.")
        job.write(JobRecord(state=JobState.FAILED, error=error))

        with pytest.raises(EngineError, match="pip couldn't download it") as caught:
            manager.wait_until_healthy("hf", 30)
        assert caught.value.code == "download-failed"


def _made(lane):
    path = Path(lane.model.checkpoint)
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


class TestLife:
    def test_start_status_and_stop(self, make, tmp_path):
        manager = make(rows("--load-s", "0.5"))
        assert manager.status("hf").state is EngineState.STOPPED

        manager.ensure("hf")
        assert manager.status("hf").state is EngineState.STARTING
        assert find_endpoint(settings_in(tmp_path), lane_in(tmp_path)) is None

        status = manager.wait_until_healthy("hf", 30)
        assert status.state is EngineState.HEALTHY
        assert status.version == f"psutil {psutil.__version__}"
        assert status.device == "cpu"
        assert status.owned
        assert "Uvicorn running" in manager.log_tail("hf")
        endpoint = find_endpoint(settings_in(tmp_path), lane_in(tmp_path))
        assert endpoint.url == status.url
        assert b"Paris" in ask(endpoint.url).read()

        manager.stop("hf")
        assert manager.status("hf").state is EngineState.STOPPED
        assert gone(status.pid)
        with pytest.raises(EngineError, match="isn't running") as caught:
            find_endpoint(settings_in(tmp_path), lane_in(tmp_path))
        assert caught.value.code == "engine-not-running"

    def test_ensure_again_changes_nothing(self, make):
        manager = make(rows())
        first = healthy(manager)
        assert healthy(manager).pid == first.pid

    def test_restart_gives_another_process(self, make):
        manager = make(rows())
        first = healthy(manager)
        manager.restart("hf")
        assert manager.wait_until_healthy("hf", 30).pid != first.pid
        assert gone(first.pid)

    def test_unknown_lane_names_those_there_are(self, make):
        with pytest.raises(ConfigError) as caught:
            make(rows()).ensure("nope")
        assert "hf" in caught.value.hint

    def test_endpoint_lane_needs_no_engine(self, make, tmp_path):
        lane = LaneSpec(name="far", kind=EngineKind.ENDPOINT, endpoint=EndpointSpec(url="http://far/v1/"))
        manager = make(rows(), lane)
        manager.ensure("far")
        assert manager.wait_until_healthy("far", 1).url == "http://far/v1/"
        assert manager.statuses() == ()
        endpoint = find_endpoint(settings_in(tmp_path), lane)
        assert (endpoint.url, endpoint.model, endpoint.api_key) == ("http://far/v1", "", None)

    def test_stage_comes_from_the_log(self, make):
        manager = make(rows("--say", "Loading weights:  42%|####  | 3/7", "--load-s", "2"))
        manager.ensure("hf")
        status = wait_for(lambda: (now := manager.status("hf")).pid and now.stage != "Starting" and now)
        assert status.stage == "Loading weights, 42%"
        assert status.last_log_line.startswith("Loading weights")

    def test_closing_ends_the_engines(self, make):
        manager = make(rows("--child", "session"))
        pid = healthy(manager).pid
        manager.close()
        assert gone(pid)

    def test_closing_in_mid_start_ends_the_engine(self, make):
        manager = make(rows("--hang"))
        manager.ensure("hf")
        pid = wait_for(lambda: manager.status("hf").pid)
        manager.close()
        wait_for(lambda: gone(pid))


class TestFailures:
    def test_death_in_mid_answer_is_seen_within_two_seconds(self, make, tmp_path):
        manager = make(rows("--chunk-s", "0.05", "--chunks", "10000"))
        status = healthy(manager)
        answer = ask(status.url)
        answer.readline()
        os.kill(status.pid, signal.SIGKILL)
        killed = time.monotonic()
        wait_for(lambda: manager.status("hf").state is EngineState.FAILED)
        wait_for(lambda: Registry(settings_in(tmp_path)).get("hf").state is EngineState.FAILED)
        assert time.monotonic() - killed < 2
        assert manager.status("hf").error.code == "engine-killed"
        with pytest.raises(EngineCrashed):
            find_endpoint(settings_in(tmp_path), lane_in(tmp_path))

    def test_death_is_told_by_any_process_when_the_owner_is_gone(self, make, tmp_path):
        manager = make(rows("--say", "RuntimeError: the wheels came off"))
        status = healthy(manager)
        manager._monitor.stop()  # nobody watches any more: it is as good as dead
        time.sleep(0.6)
        os.kill(status.pid, signal.SIGTERM)
        wait_for(lambda: gone(status.pid))
        with pytest.raises(EngineCrashed, match="the wheels came off"):
            find_endpoint(settings_in(tmp_path), lane_in(tmp_path))

    def test_hang_at_start_times_out(self, make, tmp_path):
        manager = make(rows("--hang"), lane_in(tmp_path, start_timeout_s=1.0))
        manager.ensure("hf")
        pid = wait_for(lambda: manager.status("hf").pid)
        with pytest.raises(EngineTimeout) as caught:
            manager.wait_until_healthy("hf", 30)
        assert caught.value.code == "engine-start-timeout"
        assert gone(pid)

    def test_port_that_listens_but_does_not_answer_is_not_healthy(self, make, tmp_path):
        manager = make(rows("--silent"), lane_in(tmp_path, start_timeout_s=1.0))
        manager.ensure("hf")
        with pytest.raises(EngineTimeout):
            manager.wait_until_healthy("hf", 30)

    def test_taken_port_is_tried_again_on_another(self, make, tmp_path):
        status = healthy(make(rows("--steal-port-once", str(tmp_path / "stolen"))))
        assert status.state is EngineState.HEALTHY
        first_log = (settings_in(tmp_path).logs_dir / "engine-hf.1.log").read_text()
        assert "address already in use" in first_log
        assert f"127.0.0.1', {status.port}" not in first_log

    def test_log_text_explains_a_failed_start(self, make):
        manager = make(
            rows(
                "--say", "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB", "--exit", "1"
            )
        )
        manager.ensure("hf")
        with pytest.raises(EngineOutOfMemory):
            manager.wait_until_healthy("hf", 30)

    def test_fallback_to_another_backend_is_refused_even_if_it_would_serve(self, make, tmp_path):
        line = "lmdeploy - WARNING - archs.py:40 - Fallback to pytorch engine because turbomind is not built."
        gpu = FakeGpus(GpuFacts(index=0, name="GPU", total_bytes=80 * GIB, free_bytes=80 * GIB))
        table = {EngineKind.TURBOMIND: row("--say", line, "--load-s", "0.5", needs_gpu=True)}
        manager = make(table, lane_in(tmp_path, kind=EngineKind.TURBOMIND), gpu=gpu)
        manager.ensure("hf")
        with pytest.raises(WrongBackend, match="turbomind is not built"):
            manager.wait_until_healthy("hf", 30)
        assert manager.status("hf").pid is None

    def test_missing_model_fails_without_starting_anything(self, make, tmp_path):
        lane = lane_in(tmp_path)
        gone = replace(lane, model=replace(lane.model, checkpoint=str(tmp_path / "gone")))
        manager = make(rows(), gone)
        manager.ensure("hf")
        with pytest.raises(EngineLoadFailed, match="There is no model at"):
            manager.wait_until_healthy("hf", 30)
        assert manager.log_tail("hf") == ""

    def test_failed_engine_starts_again(self, make, tmp_path):
        broken = make(rows("--exit", "1"))
        broken.ensure("hf")
        with pytest.raises(EngineLoadFailed):
            broken.wait_until_healthy("hf", 30)
        assert healthy(make(rows())).state is EngineState.HEALTHY


class TestEnding:
    @pytest.mark.parametrize("where", ["plain", "session"])
    def test_children_that_ignore_sigterm_end_too(self, make, where):
        manager = make(rows("--child", where))
        pid = healthy(manager).pid
        child = psutil.Process(pid).children()[0]
        manager.stop("hf")
        assert gone(child.pid)

    def test_orphans_of_a_killed_engine_end_too(self, make):
        manager = make(rows("--child", "session"))
        pid = healthy(manager).pid
        child = psutil.Process(pid).children()[0]
        os.kill(pid, signal.SIGKILL)
        wait_for(lambda: gone(child.pid), 20)

    def test_foreign_process_with_the_same_number_is_left_alone(self, make, tmp_path):
        manager = make(rows())
        pid = healthy(manager).pid
        foreign = subprocess.Popen(
            [sys.executable, "-c", "import time; time.sleep(60)"], start_new_session=True
        )
        try:
            registry = Registry(settings_in(tmp_path))
            with registry.changing() as engines:
                entry = engines["hf"]
                stale = replace(entry.process, pid=foreign.pid, created_s=entry.process.created_s - 3600)
                engines["hf"] = replace(entry, process=stale, start_id="another")
            os.kill(pid, signal.SIGKILL)
            manager.stop("hf", force=True)
            assert foreign.poll() is None
        finally:
            foreign.kill()
            foreign.wait()

    def test_lease_keeps_an_engine_from_being_stopped(self, make, tmp_path):
        manager = make(rows())
        pid = healthy(manager).pid
        with lease(settings_in(tmp_path), "hf"):
            assert manager.status("hf").in_use
            with pytest.raises(EngineBusy):
                manager.stop("hf")
            with pytest.raises(EngineBusy):
                manager.restart("hf")
            assert not gone(pid)
        assert not in_use(settings_in(tmp_path), "hf")
        manager.stop("hf")
        assert gone(pid)

    def test_forced_stop_ends_it_under_a_request(self, make, tmp_path):
        manager = make(rows())
        pid = healthy(manager).pid
        with lease(settings_in(tmp_path), "hf"):
            manager.stop("hf", force=True)
        assert gone(pid)

    def test_no_lease_while_it_is_being_stopped(self, make, tmp_path):
        manager = make(rows("--stubborn"), grace_s=3.0)
        healthy(manager)
        stopping = threading.Thread(target=manager.stop, args=("hf",))
        stopping.start()
        wait_for(lambda: manager.status("hf").state is EngineState.STOPPING)
        with pytest.raises(EngineBusy) as caught, lease(settings_in(tmp_path), "hf"):
            pass
        assert caught.value.code == "engine-stopping"
        stopping.join()


class FakeGpus:
    """GPUs whose free memory a test sets."""

    def __init__(self, *facts):
        self.facts = list(facts)

    def devices(self):
        return tuple(self.facts)


class TestDevices:
    def test_engines_load_one_after_another_on_a_device(self, make, tmp_path):
        manager = make(rows("--load-s", "1"), lane_in(tmp_path, "one"), lane_in(tmp_path, "two"))
        manager.ensure("one")
        wait_for(lambda: manager.status("one").pid)
        manager.ensure("two")
        waiting = wait_for(lambda: "Waiting" in (manager.status("two").stage or "") and manager.status("two"))
        assert waiting.pid is None
        assert waiting.stage == "Waiting for cpu: another engine is loading"
        manager.wait_until_healthy("two", 30)
        assert manager.status("one").state is EngineState.HEALTHY

    def test_engine_that_does_not_fit_is_refused_with_a_way_out(self, make, tmp_path):
        gpu = FakeGpus(GpuFacts(index=0, name="GPU", total_bytes=24 * GIB, free_bytes=GIB // 2))
        table = {EngineKind.TURBOMIND: row(needs_gpu=True)}
        manager = make(table, lane_in(tmp_path, "tm", EngineKind.TURBOMIND), gpu=gpu)
        manager.ensure("tm")
        with pytest.raises(EngineOutOfMemory) as caught:
            manager.wait_until_healthy("tm", 30)
        assert caught.value.code == "gpu-full"
        assert "512 MiB free" in caught.value.message

    def test_placed_engine_sees_only_its_gpu(self, make, tmp_path):
        gpu = FakeGpus(
            GpuFacts(index=0, name="GPU", total_bytes=24 * GIB, free_bytes=3 * GIB),
            GpuFacts(index=1, name="GPU", total_bytes=24 * GIB, free_bytes=20 * GIB),
        )
        manager = make(
            {EngineKind.TURBOMIND: row(needs_gpu=True)},
            lane_in(tmp_path, "tm", EngineKind.TURBOMIND),
            gpu=gpu,
        )
        status = healthy(manager, "tm")
        assert status.device == "cuda:1"
        assert psutil.Process(status.pid).environ()["CUDA_VISIBLE_DEVICES"] == "1"

    def test_gpu_engine_without_a_gpu_says_so(self, make, tmp_path):
        manager = make(
            {EngineKind.TURBOMIND: row(needs_gpu=True)}, lane_in(tmp_path, "tm", EngineKind.TURBOMIND)
        )
        manager.ensure("tm")
        with pytest.raises(EngineLoadFailed) as caught:
            manager.wait_until_healthy("tm", 30)
        assert caught.value.code == "no-gpu"
