"""engines.json between threads and processes, and what is read out of it."""

import os
import stat
import threading
from contextlib import suppress
from dataclasses import replace

import pytest

from core.domain.specs import Dialect, Endpoint, EndpointSpec, EngineKind, LaneSpec
from core.domain.turns import ErrorInfo, utc_now
from core.engines.registry import EngineEntry, EngineState, Registry
from core.engines.resolve import find_endpoint, observed, same_engine
from core.engines.status import of_engine
from core.errors import ConfigError, EngineError, EngineOutOfMemory
from core.telemetry.processes import ProcessId, this_process
from tests.unit.engines.engine_stand_ins import lane_in, settings_in

DEAD = ProcessId(pid=os.getpid(), created_s=1.0)


@pytest.fixture
def settings(tmp_path):
    return settings_in(tmp_path)


def entry_for(lane, settings, state=EngineState.HEALTHY, **fields):
    return EngineEntry(
        **{
            "lane": lane,
            "state": state,
            "since": utc_now(),
            "owner": this_process(),
            "worker": this_process(),
            "process": this_process(),
            "port": 4711,
            "endpoint": Endpoint(
                url="http://127.0.0.1:4711/v1", model="m", dialect=Dialect.LMDEPLOY, api_key="geheim"
            ),
            "log_file": str(settings.logs_dir / "engine-hf.log"),
            **fields,
        }
    )


def put(settings, entry):
    with Registry(settings).changing() as engines:
        engines[entry.name] = entry
    return entry


class TestFile:
    def test_entry_comes_back_as_it_was(self, settings, tmp_path):
        lane = lane_in(tmp_path, kind=EngineKind.TURBOMIND, devices=(0, 1), tp=2)
        entry = put(settings, entry_for(lane, settings, gpus=(0, 1), error=ErrorInfo("a", "b", "c")))
        assert Registry(settings).get("hf") == entry

    def test_only_its_owner_can_read_it(self, settings, tmp_path):
        put(settings, entry_for(lane_in(tmp_path), settings))
        assert b"geheim" in settings.engines_file.read_bytes()
        assert stat.S_IMODE(settings.engines_file.stat().st_mode) == 0o600

    def test_failed_change_writes_nothing(self, settings, tmp_path):
        put(settings, entry_for(lane_in(tmp_path), settings))
        with suppress(RuntimeError), Registry(settings).changing() as engines:
            engines.clear()
            raise RuntimeError
        assert Registry(settings).get("hf") is not None

    def test_changes_of_many_threads_are_all_kept(self, settings, tmp_path):
        lane = lane_in(tmp_path)

        def add(number):
            put(settings, entry_for(replace(lane, name=f"lane-{number}"), settings))

        threads = [threading.Thread(target=add, args=(number,)) for number in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(Registry(settings).read()) == 12

    def test_reader_sees_what_another_writes(self, settings, tmp_path):
        reader = Registry(settings)
        assert reader.get("hf") is None
        put(settings, entry_for(lane_in(tmp_path), settings))
        assert reader.get("hf").state is EngineState.HEALTHY
        put(settings, entry_for(lane_in(tmp_path), settings, EngineState.FAILED))
        assert reader.get("hf").state is EngineState.FAILED

    def test_update_of_an_earlier_start_changes_nothing(self, settings, tmp_path):
        earlier = put(settings, entry_for(lane_in(tmp_path), settings))
        put(settings, entry_for(lane_in(tmp_path), settings))
        assert Registry(settings).update(earlier, stage="late") is None
        assert Registry(settings).get("hf").stage is None

    def test_unreadable_file_is_put_aside(self, settings):
        settings.home.mkdir(exist_ok=True)
        settings.engines_file.write_text("{ half")
        assert Registry(settings).read() == {}
        assert settings.engines_file.with_suffix(".unreadable.json").read_text() == "{ half"


class TestResolve:
    def test_healthy_engine(self, settings, tmp_path):
        entry = put(settings, entry_for(lane_in(tmp_path), settings))
        endpoint = find_endpoint(settings, lane_in(tmp_path))
        assert replace(endpoint, log_file=None) == entry.endpoint
        assert endpoint.log_file == str(entry.log_file)

    def test_no_engine(self, settings, tmp_path):
        with pytest.raises(EngineError) as caught:
            find_endpoint(settings, lane_in(tmp_path))
        assert caught.value.code == "engine-not-running"
        assert "engines start hf" in caught.value.hint

    def test_failed_engine_raises_its_error_in_its_class(self, settings, tmp_path):
        error = ErrorInfo("gpu-full", "does not fit", "stop another")
        put(settings, entry_for(lane_in(tmp_path), settings, EngineState.FAILED, error=error))
        with pytest.raises(EngineOutOfMemory, match="does not fit") as caught:
            find_endpoint(settings, lane_in(tmp_path))
        assert (caught.value.code, caught.value.hint) == ("gpu-full", "stop another")

    def test_process_number_that_another_has_now_counts_as_dead(self, settings, tmp_path):
        entry = entry_for(lane_in(tmp_path), settings, process=DEAD)
        assert observed(entry).state is EngineState.FAILED
        assert observed(entry).error.code == "engine-died"

    @pytest.mark.parametrize("state", [EngineState.STARTING, EngineState.STOPPING])
    def test_work_that_nobody_goes_on_with_has_failed(self, settings, tmp_path, state):
        entry = entry_for(lane_in(tmp_path), settings, state, worker=DEAD)
        assert observed(entry).error.code == "engine-start-abandoned"

    def test_same_engine_whatever_its_start_timeout(self, tmp_path):
        assert same_engine(lane_in(tmp_path), lane_in(tmp_path, start_timeout_s=5.0))
        assert not same_engine(lane_in(tmp_path), lane_in(tmp_path, dtype="bfloat16"))

    def test_endpoint_with_its_key(self, settings, monkeypatch):
        spec = EndpointSpec(
            url="http://far/v1/", model="m", dialect=Dialect.LMDEPLOY, api_key_name="LMDYNO_KEY_FAR"
        )
        lane = LaneSpec(name="far", kind=EngineKind.ENDPOINT, endpoint=spec)
        settings = replace(settings, secrets_file=settings.home / "secrets.toml")
        with pytest.raises(ConfigError, match=r"far \(LMDYNO_KEY_FAR\): No API key"):
            find_endpoint(settings, lane)
        monkeypatch.setenv("LMDYNO_KEY_FAR", "geheim")
        with pytest.raises(ConfigError, match="The API key isn't allowed for far"):
            find_endpoint(settings, lane)
        monkeypatch.setenv("LMDYNO_KEY_FAR_HOSTS", "far")
        endpoint = find_endpoint(settings, lane)
        assert (endpoint.url, endpoint.api_key, endpoint.device) == ("http://far/v1", "geheim", None)
        assert "geheim" not in repr(endpoint)


class TestStatus:
    def tell(self, entry, silent_s=0.0):
        return of_engine(entry, entry.lane, silent_s=silent_s, in_use=True, stopped_s=None, owned=True)

    def test_healthy_engine_that_does_not_answer_says_so_and_stays_healthy(self, settings, tmp_path):
        entry = entry_for(lane_in(tmp_path), settings)
        assert self.tell(entry).stage is None
        status = self.tell(entry, silent_s=75)
        assert (status.state, status.stage) == (EngineState.HEALTHY, "Not responding for 1 min 15 s")

    def test_dead_engine_shows_no_address_and_no_process(self, settings, tmp_path):
        status = self.tell(entry_for(lane_in(tmp_path), settings, process=DEAD))
        assert (status.state, status.pid, status.url, status.in_use) == (
            EngineState.FAILED,
            None,
            None,
            False,
        )
        assert status.error.code == "engine-died"

    def test_log_of_the_start_before_tells_nothing(self, settings, tmp_path):
        entry = entry_for(lane_in(tmp_path), settings, EngineState.STARTING, process=None)
        settings.logs_dir.mkdir(parents=True)
        (settings.logs_dir / "engine-hf.log").write_text("Loading weights:  42%|# | 3/7\n")
        waiting = self.tell(entry)
        assert (waiting.stage, waiting.last_log_line) == ("Starting", "")
        queued = self.tell(replace(entry, stage="waiting for the GPU"))
        assert (queued.stage, queued.last_log_line) == ("waiting for the GPU", "")
        spawned = self.tell(replace(entry, process=this_process()))
        assert (spawned.stage, spawned.last_log_line) == (
            "Loading weights, 42%",
            "Loading weights:  42%|# | 3/7",
        )
