"""The engines page over stand-ins for engines, jobs and doctor; lanes are kept in a folder of the test."""

import re
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest

from core.access.guard import Action, AuditEntry
from core.chat_api.servers import Reach, ServerMetrics
from core.codec import encode
from core.config import LaneRegistry, changes_file, load_lanes, save_lane
from core.doctor.fitness import Diagnosis, Finding, Status
from core.domain.specs import (
    FILE_ONLY_SETTINGS,
    SETTINGS_OF,
    Dialect,
    Endpoint,
    EndpointSpec,
    EngineKind,
    EngineSettings,
    LaneSpec,
    ModelSpec,
    Patience,
    RequestOptions,
    Weights,
)
from core.domain.turns import ErrorInfo, utc_now
from core.engines.registry import EngineEntry, EngineState, Registry, Replica
from core.engines.resolve import nodes_file
from core.errors import EngineBusy, EngineCrashed, InputError, StoreError
from core.files import write_atomically
from core.jobs.registry import JobRecord, JobSpec, JobState, JobStatus
from core.models import job as models_job
from core.models.awq import check as awq_check
from core.models.awq.options import AwqOptions
from core.models.model_folders import Provenance
from core.reports.tables import audit_csv
from core.settings import Settings
from core.store.audit import AuditLog
from core.telemetry.processes import this_process
from core.ui.engines import endpoints as endpoint_panel
from core.ui.engines import quantise as quantise_panel
from core.ui.engines import status
from core.ui.shared import jobs as shared_jobs
from core.ui.shared import resources
from tests import scripted_server
from tests.unit.engines.node_samples import a_lost_node, a_node, a_snapshot

GIB = 2**30
KEY = "sk-not-for-other-eyes"
LANES = """
[models.tiny]
checkpoint = "./tiny"
gguf = "tiny.gguf"

[lanes.hf]
engine = "transformers"
model = "tiny"
device = "cpu"
dtype = "bfloat16"

[lanes.fast]
engine = "turbomind"
model = "tiny"
cache_max_entry_count = 0.5

[lanes.remote]
engine = "endpoint"
url = "http://gpu-host:23333/v1"
model = "tiny"
api_key = "LMDYNO_KEY_TEST"
"""


class Dashboard:
    """What `resources.resources()` gives the page: real lanes of a temporary home, no engines."""

    def __init__(self, home, manager):
        self.settings = Settings(
            home=home,
            lanes_file=home / "lanes.toml",
            database_url="sqlite://",
            secrets_file=home / "secrets.toml",
        )
        self.settings.lanes_file.write_text(LANES)
        self.gpu = True
        self.manager = manager
        self.reload_lanes()

    def reload_lanes(self):
        self.registry = load_lanes(self.settings, gpu=self.gpu)
        self.manager.configure(self.registry.lanes)


class FakeJobs:
    def __init__(self):
        self.all: list[JobStatus] = []
        self.cancelled = []

    def __call__(self, settings):
        return self

    def statuses(self, kind=None):
        return tuple(self.all)

    def cancel(self, job_id):
        self.cancelled.append(job_id)

    def log_tail(self, job_id, lines=40):
        return f"the log of {job_id}"

    def add(self, *, target="/nowhere", node=None, **record):
        arguments = {"target": str(target)} | ({"node": node} if node else {})
        spec = JobSpec(
            id="job1",
            kind="quantise",
            title="W4A16 of tiny",
            worker="none",
            arguments=arguments,
            python="none",
        )
        self.all.append(JobStatus(spec, JobRecord(**record)))


@pytest.fixture
def engines(world, monkeypatch, tmp_path):
    """What stands behind the page: `manager`, `dashboard`, `jobs`, `metrics` of every server."""
    monkeypatch.setenv("LMDYNO_KEY_TEST", KEY)
    dashboard = Dashboard(tmp_path, world.manager)
    things = SimpleNamespace(manager=world.manager, dashboard=dashboard, jobs=FakeJobs(), metrics=None)
    monkeypatch.setattr(resources, "resources", lambda: dashboard)
    monkeypatch.setattr(resources, "lanes", lambda: dashboard.registry)
    monkeypatch.setattr(resources, "sampler", lambda: SimpleNamespace(samples=lambda: ()))
    monkeypatch.setattr(endpoint_panel, "server_metrics", lambda *a, **k: things.metrics)
    monkeypatch.setattr(quantise_panel, "Jobs", things.jobs)
    monkeypatch.setattr(shared_jobs, "Jobs", things.jobs)
    return things


@pytest.fixture
def open_page(engines, new_app):
    """Opens the page; `section` and `details` are tabs, `lane` the one whose details are shown."""

    def open_at(section=None, *, lane=None, details=None):
        app = new_app().run()
        app.switch_page("pages/engines.py").run()
        if section:
            app.session_state["engines_section"] = section
        if lane:
            app.session_state["engines_lane"] = lane
        if details:
            app.session_state[f"details_{lane}"] = details
        app.run()
        assert not app.exception
        return app

    return open_at


ENDPOINTS = ":material/cloud: Endpoints"
AUDIT = ":material/shield_person: Audit log"
QUANTISE = ":material/compress: Quantise (W4A16)"
MACHINE = ":material/stethoscope: This machine"


def texts(app):
    kinds = (app.markdown, app.caption, app.error, app.info, app.warning, app.success, app.code)
    return "\n".join(element.value for kind in kinds for element in kind)


def keys(app):
    return {button.key for button in app.button}


def submit(app, label):
    return next(button for button in app.button if button.label == label).click().run()


def field(kind, label):
    return next(widget for widget in kind if widget.label == label)


class TestCards:
    def test_a_stopped_lane_that_can_not_run_here_says_why(self, open_page, engines, world):
        engines.manager.states["hf"] = EngineState.STOPPED
        world.unfit["hf"] = ErrorInfo("no-gpu", "It needs an NVIDIA GPU.", "Use a lane on the CPU.")
        shown = texts(open_page())
        assert "It needs an NVIDIA GPU." in shown
        assert "Use a lane on the CPU." in shown

    def test_a_starting_engine_says_what_it_does(self, open_page, engines):
        engines.manager.states["hf"] = EngineState.STARTING
        app = open_page()
        assert ":shimmer[Loading the weights] · 1 min 15 s" in texts(app)
        assert "Loading shard 1 of 2" in texts(app)
        assert {"engine_stop_hf", "engine_restart_hf"} <= keys(app)
        assert "engine_start_hf" not in keys(app)

    def test_a_healthy_engine_shows_its_facts(self, open_page, engines):
        facts = texts(open_page())
        assert "Address: `http://127.0.0.1:40000/v1`" in facts
        assert "Process: 4711 on cpu" in facts
        assert "Uptime: 1 min 15 s" in facts
        assert "Version: transformers 5.23.0" in facts
        assert "Memory: –" in facts

    def test_memory_as_sampled_last(self, open_page, monkeypatch):
        share = SimpleNamespace(gpu=1, used_bytes=3 * GIB)
        unknown = SimpleNamespace(gpu=2, used_bytes=None)
        reading = SimpleNamespace(name="fast", gpu_memory=(share, unknown), resident_bytes=GIB)
        sampler = SimpleNamespace(samples=lambda: (SimpleNamespace(engines=(reading,)),))
        monkeypatch.setattr(resources, "sampler", lambda: sampler)
        assert "Memory: 3.00 GiB on GPU 1, 1.00 GiB resident" in texts(open_page())

    def test_a_healthy_engine_with_something_to_say_says_it(self, open_page, engines):
        engines.manager.stages["hf"] = "Runs with its previous settings until you restart it"
        assert "Runs with its previous settings until you restart it" in texts(open_page())

    def test_each_replica_is_shown_with_its_state(self, open_page, engines):
        one = Replica(
            number=1, state=EngineState.HEALTHY, since=utc_now(), pid=11, device="cuda:0", exit_code=None
        )
        other = replace(one, number=2, state=EngineState.FAILED, pid=None, exit_code=-9)
        engines.manager.replicas["hf"] = (one, other)
        lines = [line for line in texts(open_page()).splitlines() if line.startswith("Replica ")]
        assert len(lines) == 2
        assert "ready" in lines[0]
        assert lines[0].endswith("11 on cuda:0")
        assert "failed" in lines[1]
        assert lines[1].endswith("exit code -9")

    def test_a_failed_engine_gives_reason_and_way_out(self, open_page, engines):
        engines.manager.states["hf"] = EngineState.FAILED
        engines.manager.errors["hf"] = ErrorInfo("engine-died", "It was killed", "Start it again.")
        app = open_page()
        assert [error.value for error in app.error] == ["It was killed\n\nStart it again.\n\n`engine-died`"]
        app.button(key="engine_start_hf").click().run()
        assert engines.manager.ensured == ["hf"]

    def test_a_stopped_engine_can_only_be_started(self, open_page, engines):
        engines.manager.states["hf"] = EngineState.STOPPED
        app = open_page()
        assert not {"engine_stop_hf", "engine_restart_hf"} & keys(app)
        app.button(key="engine_start_hf").click().run()
        assert engines.manager.ensured == ["hf"]

    def test_stop_and_restart_reach_the_manager(self, open_page, engines):
        app = open_page()
        app.button(key="engine_stop_hf").click().run()
        app.button(key="engine_restart_fast").click().run()
        assert engines.manager.stopped == ["hf"]
        assert engines.manager.restarted == ["fast"]

    def test_an_engine_that_finishes_a_stopped_request_can_be_restarted_now(self, open_page, engines):
        engines.manager.finishing["hf"] = 42.0
        app = open_page()
        assert any("finishing a stopped request" in each.value for each in app.markdown)
        button = app.button(key="engine_restart_hf")
        assert button.label == "Restart now"
        button.click().run()
        assert engines.manager.restarted == ["hf"]

    def test_what_is_in_use_cannot_be_stopped(self, open_page, engines):
        engines.manager.in_use = {"hf"}
        app = open_page()
        assert "in use" in texts(app)
        assert app.button(key="engine_stop_hf").disabled
        assert app.button(key="engine_restart_hf").disabled
        assert not app.button(key="engine_stop_fast").disabled

    def test_an_engine_that_got_busy_meanwhile_says_so(self, open_page, engines):
        engines.manager.refusal = EngineBusy("hf is in use", hint="Wait for its answer.")
        app = open_page()
        app.button(key="engine_stop_hf").click().run()
        assert [toast.value for toast in app.toast] == ["hf is in use Wait for its answer."]
        assert not app.exception

    def test_without_engines_of_ones_own_the_page_says_so(self, open_page, engines):
        lanes = tuple(lane for lane in engines.dashboard.registry.lanes if not lane.is_local)
        engines.dashboard.registry = LaneRegistry(models=(), lanes=lanes, source=None)
        engines.manager.configure(lanes)
        assert "All lanes are endpoints" in texts(open_page())


class TestSettings:
    @pytest.mark.parametrize("name", ["hf", "fast"])
    def test_the_form_has_the_fields_of_its_kind(self, open_page, engines, name):
        app = open_page(lane=name)
        start = f"setting_{name}_"
        kinds = ("selectbox", "multiselect", "text_input", "number_input", "slider", "toggle", "button_group")
        found = {w.key for kind in kinds for w in app.get(kind) if w.key and w.key.startswith(start)}
        kind = engines.dashboard.registry.lane(name).kind
        assert {key.removeprefix(start) for key in found} == SETTINGS_OF[kind] - FILE_ONLY_SETTINGS

    def test_apply_keeps_the_lane_and_restarts_its_engine(self, open_page, engines):
        app = open_page(lane="fast")
        app.slider(key="setting_fast_cache_max_entry_count").set_value(0.8)
        app.number_input(key="setting_fast_session_len").set_value(8192)
        app.toggle(key="setting_fast_enable_prefix_caching").set_value(True)
        submit(app, "Apply")
        kept = load_lanes(engines.dashboard.settings, gpu=True).lane("fast").settings
        assert kept == EngineSettings(cache_max_entry_count=0.8, session_len=8192, enable_prefix_caching=True)
        assert engines.manager.restarted == ["fast"]
        assert engines.dashboard.settings.lanes_file.read_text() == LANES

    def test_a_stopped_engine_stays_stopped(self, open_page, engines):
        engines.manager.states["hf"] = EngineState.STOPPED
        app = open_page(lane="hf")
        app.toggle(key="setting_hf_continuous_batching").set_value(True)
        submit(app, "Apply")
        assert engines.dashboard.registry.lane("hf").settings.continuous_batching
        assert engines.manager.restarted == []

    def test_nothing_changed_restarts_nothing(self, open_page, engines):
        submit(open_page(lane="fast"), "Apply")
        assert engines.manager.restarted == []
        assert not changes_file(engines.dashboard.settings).exists()

    def test_settings_that_contradict_each_other_are_refused(self, open_page, engines):
        app = open_page(lane="fast")
        app.number_input(key="setting_fast_tp").set_value(2)
        app.multiselect(key="setting_fast_devices").set_value([0])
        submit(app, "Apply")
        (error,) = app.error
        assert "tp doesn't fit" in error.value
        assert "at most 1, the number of devices" in error.value
        assert not changes_file(engines.dashboard.settings).exists()
        assert engines.manager.restarted == []

    def test_what_decides_over_the_code_that_runs_is_shown_and_not_asked_for(self, open_page, engines):
        app = open_page(lane="hf")
        assert "Python interpreter (`python`): the dashboard's own" in texts(app)
        asked = [field.key for kind in ("text_input", "toggle") for field in app.get(kind)]
        assert not [key for key in asked if key and ("python" in key or "trust" in key)]

    def test_code_of_a_model_is_warned_of(self, open_page, engines):
        file = engines.dashboard.settings.lanes_file
        file.write_text(LANES.replace('dtype = "bfloat16"', "trust_remote_code = true"))
        engines.dashboard.reload_lanes()
        app = open_page(lane="hf")
        assert "runs code that comes with its model" in app.warning[0].value
        app.toggle(key="setting_hf_continuous_batching").set_value(True)
        submit(app, "Apply")
        assert engines.dashboard.registry.lane("hf").settings.trust_remote_code

    def test_a_lane_that_is_gone_gives_way_to_the_first(self, open_page, engines):
        app = open_page(lane="remote")
        lanes = tuple(lane for lane in engines.dashboard.registry.lanes if lane.name != "remote")
        engines.dashboard.registry = replace(engines.dashboard.registry, lanes=lanes)
        app.run()
        assert not app.exception
        assert "### " in texts(app)


class TestDetails:
    def test_recipes_follow_the_settings_and_hold_no_key(self, open_page):
        shown = texts(open_page(lane="fast", details="Reproduce this lane"))
        assert "lmdeploy serve api_server" in shown
        assert "--cache-max-entry-count 0.5" in shown
        assert "TurbomindEngineConfig" in shown
        assert "$LMDYNO_API_KEY" in shown

    def test_recipes_of_an_endpoint_name_its_key_only(self, open_page):
        shown = texts(open_page(lane="remote", details="Reproduce this lane"))
        assert "http://gpu-host:23333/v1/chat/completions" in shown
        assert "$LMDYNO_KEY_TEST" in shown
        assert KEY not in shown

    def test_the_key_of_an_own_engine_is_shown_to_its_owner(self, open_page, engines):
        registered(engines, api_key="own-key")
        app = open_page(lane="hf", details="Connect")
        assert {"http://127.0.0.1:40000/v1", "tiny", "own-key"} <= {code.value for code in app.code}

    def test_the_key_of_somebody_elses_server_is_not(self, open_page):
        app = open_page(lane="remote", details="Connect")
        assert {"http://gpu-host:23333/v1", "tiny"} == {code.value for code in app.code}
        assert KEY not in texts(app)

    def test_an_engine_that_does_not_run_has_no_address(self, open_page):
        app = open_page(lane="hf", details="Connect")
        assert "The engine of hf isn't running" in app.error[0].value

    def test_the_log(self, open_page):
        app = open_page(lane="hf", details="Log")
        assert "the log of hf" in texts(app)


def registered(engines, *, api_key):
    lane = engines.dashboard.registry.lane("hf")
    with Registry(engines.dashboard.settings).changing() as entries:
        entries["hf"] = EngineEntry(
            lane=lane,
            state=EngineState.HEALTHY,
            since=utc_now(),
            owner=this_process(),
            worker=this_process(),
            process=this_process(),
            port=40000,
            endpoint=Endpoint(
                url="http://127.0.0.1:40000/v1", model="tiny", dialect=Dialect.TRANSFORMERS, api_key=api_key
            ),
            log_file="none.log",
        )


@pytest.fixture(scope="module")
def server():
    with scripted_server.running() as running:
        yield running


def probed(app, url, key_name=None):
    field(app.text_input, "Base URL").set_value(url)
    if key_name:
        field(app.selectbox, "API key").set_value(key_name)
    return submit(app, "Test the connection")


def edited(app, lane):
    """The page with the lane's settings open."""
    app.session_state[endpoint_panel.edit_key(lane)] = True
    return app.run()


class TestEndpoints:
    def test_a_server_is_tested_and_becomes_a_lane(self, open_page, engines, server):
        app = probed(open_page(ENDPOINTS), f" {server.url}/ ")
        assert f"{len(scripted_server.SCENARIOS)} models found." in app.success[0].value
        field(app.text_input, "Lane name").set_value("lab")
        field(app.selectbox, "Model").set_value("slow")
        submit(app, "Add lane")
        assert not app.exception
        assert not app.success
        kept = load_lanes(engines.dashboard.settings, gpu=True).lane("lab")
        assert kept == LaneSpec(
            name="lab", kind=EngineKind.ENDPOINT, endpoint=EndpointSpec(url=server.url, model="slow")
        )
        assert "**lab**" in texts(app)

    def test_a_server_that_answers_and_one_that_does_not(self, open_page, world):
        world.reachability.known["remote"] = Reach(round_trip_s=0.012)
        assert ":material/cloud_done: reachable" in texts(open_page(ENDPOINTS))
        problem = ErrorInfo("endpoint-unreachable", "http://gpu-host can't be reached.", "Check the host.")
        world.reachability.known["remote"] = Reach(error=problem)
        app = open_page(ENDPOINTS)
        assert ":material/cloud_off: unreachable" in texts(app)
        assert "can't be reached" in app.error[0].value

    def test_a_removed_endpoint_can_be_brought_back(self, open_page, engines):
        spec = EndpointSpec(url="http://lab/v1", model="m", dialect=Dialect.VLLM)
        lab = LaneSpec(name="lab", kind=EngineKind.ENDPOINT, endpoint=spec)
        keep(engines, lab)
        app = open_page(ENDPOINTS)
        app.button(key="forget_lab").click().run()
        assert "lab was removed." in texts(app)
        app.button(key="bring_back_lane").click().run()
        assert not app.exception
        assert engines.dashboard.registry.lane("lab") == lab
        assert "bring_back_lane" not in keys(app)

    def test_a_removed_endpoint_that_can_not_be_kept_may_be_tried_again(
        self, open_page, engines, monkeypatch
    ):
        lab = LaneSpec(
            name="lab", kind=EngineKind.ENDPOINT, endpoint=EndpointSpec(url="http://lab/v1", model="m")
        )
        keep(engines, lab)
        app = open_page(ENDPOINTS)
        app.button(key="forget_lab").click().run()
        monkeypatch.setattr(status, "save_lane", _disk_is_full)
        app.button(key="bring_back_lane").click().run()
        assert "The disk is full." in app.toast[0].value
        assert "bring_back_lane" in keys(app)

    def test_every_setting_of_an_endpoint_can_be_changed(self, open_page, engines):
        app = edited(open_page(ENDPOINTS), engines.dashboard.registry.lane("remote"))
        for name, value in (
            ("url", "http://gpu-host:9/v1"),
            ("model", "other"),
            ("leave_out", "seed, top_p"),
            ("tokenizer", "/models/tiny"),
        ):
            app.text_input(key=f"endpoint_{name}_remote").set_value(value)
        app.text_area(key="endpoint_headers_remote").set_value("X-Team: lab\nX-Key: $LMDYNO_KEY_TEST")
        app.text_area(key="endpoint_extra_body_remote").set_value('{"safe_prompt": false}')
        app.selectbox(key="endpoint_dialect_remote").set_value(Dialect.VLLM)
        app.selectbox(key="endpoint_max_tokens_name_remote").set_value("max_completion_tokens")
        app.selectbox(key="endpoint_vision_remote").set_value(True)
        app.number_input(key="endpoint_first_token_timeout_s_remote").set_value(900.0)
        submit(app, "Save")
        assert not app.exception
        assert not app.error
        lane = engines.dashboard.registry.lane("remote")
        assert lane.endpoint == EndpointSpec(
            url="http://gpu-host:9/v1",
            model="other",
            dialect=Dialect.VLLM,
            api_key_name="LMDYNO_KEY_TEST",
            vision=True,
            request=RequestOptions(
                headers=(("X-Team", "lab"), ("X-Key", "$LMDYNO_KEY_TEST")),
                extra_body='{"safe_prompt": false}',
                max_tokens_name="max_completion_tokens",
                leave_out=("seed", "top_p"),
            ),
            tokenizer="/models/tiny",
        )
        assert lane.patience == Patience(first_token_s=900.0)
        assert engines.dashboard.settings.lanes_file.read_text() == LANES
        app.button(key="forget_remote").click().run()
        assert "remote is as the lanes file has it." in texts(app)
        assert engines.dashboard.registry.lane("remote").endpoint.model == "tiny"

    @pytest.mark.parametrize(
        ("kind", "name", "value", "said"),
        [
            ("text_input", "url", "ftp://x", "not a valid URL"),
            ("text_area", "headers", "no colon here", "is not a header"),
            ("text_area", "extra_body", "{broken", "not valid JSON"),
            ("text_area", "extra_body", '{"stream": false}', "set by LMDyno itself"),
            ("text_input", "leave_out", "messages", "not a list of request fields"),
        ],
    )
    def test_settings_that_do_not_do_are_refused_with_their_reason(
        self, open_page, engines, kind, name, value, said
    ):
        app = edited(open_page(ENDPOINTS), engines.dashboard.registry.lane("remote"))
        getattr(app, kind)(key=f"endpoint_{name}_remote").set_value(value)
        submit(app, "Save")
        assert said in app.error[0].value
        assert not changes_file(engines.dashboard.settings).exists()

    def test_an_added_endpoint_can_be_removed_those_of_the_file_not(self, open_page, engines):
        spec = EndpointSpec(url="http://lab/v1")
        keep(engines, LaneSpec(name="lab", kind=EngineKind.ENDPOINT, endpoint=spec))
        app = open_page(ENDPOINTS, lane="lab")
        assert "forget_remote" not in keys(app)
        app.button(key="forget_lab").click().run()
        assert not app.exception
        assert [lane.name for lane in engines.dashboard.registry.lanes] == ["hf", "fast", "remote"]
        app.session_state["engines_section"] = ":material/memory: Engines"
        assert not app.run().exception

    @pytest.mark.parametrize(
        ("name", "problem"),
        [
            ("remote", "A lane named remote already exists"),
            ("Big Lab", "is not a valid lane name"),
            ("", "is not a valid lane name"),
        ],
    )
    def test_names_that_do_not_do(self, open_page, engines, server, name, problem):
        app = probed(open_page(ENDPOINTS), server.url)
        field(app.text_input, "Lane name").set_value(name)
        submit(app, "Add lane")
        assert problem in app.error[0].value
        assert app.success
        assert not changes_file(engines.dashboard.settings).exists()

    def test_keys_are_chosen_by_name_from_those_there_are(self, open_page, monkeypatch):
        monkeypatch.setenv("HOME_KEY", "no key of ours")
        offered = field(open_page(ENDPOINTS).selectbox, "API key").options
        assert "LMDYNO_KEY_TEST" in offered
        assert not {"HOME", "HOME_KEY"} & set(offered)

    def test_a_key_goes_to_no_other_host_than_its_own(self, open_page, server):
        app = probed(open_page(ENDPOINTS), server.url, "LMDYNO_KEY_TEST")
        assert "The API key isn't allowed for 127.0.0.1" in app.error[0].value
        assert KEY not in texts(app)
        assert not app.success

    def test_a_key_bound_to_a_host_goes_there_and_the_lane_keeps_its_name(
        self, open_page, engines, server, monkeypatch
    ):
        monkeypatch.setenv("LMDYNO_KEY_TEST_HOSTS", "127.0.0.1")
        app = probed(open_page(ENDPOINTS), server.url, "LMDYNO_KEY_TEST")
        field(app.text_input, "Lane name").set_value("lab")
        submit(app, "Add lane")
        kept = load_lanes(engines.dashboard.settings, gpu=True).lane("lab")
        assert kept.endpoint.api_key_name == "LMDYNO_KEY_TEST"
        assert KEY not in changes_file(engines.dashboard.settings).read_text()

    def test_a_server_that_is_not_there(self, open_page, monkeypatch):
        def unreachable(url, key):
            raise EngineCrashed(
                f"{url} can't be reached", hint="Check host and port.", code="endpoint-unreachable"
            )

        monkeypatch.setattr(endpoint_panel, "probe", unreachable)
        app = probed(open_page(ENDPOINTS), "http://nowhere/v1")
        assert "can't be reached" in app.error[0].value
        assert "Add lane" not in {button.label for button in app.button}

    def test_an_address_that_is_none(self, open_page):
        app = probed(open_page(ENDPOINTS), "gpu-host")
        assert "“gpu-host” isn't a valid URL" in app.error[0].value

    def test_the_load_of_a_server(self, open_page, engines, world):
        world.reachability.known["remote"] = Reach(round_trip_s=0.012)
        assert "No `/metrics`" in texts(open_page(ENDPOINTS))
        engines.metrics = ServerMetrics(kv_used_ratio=0.25, running=3, waiting=None)
        assert "3 running · – waiting · KV cache 25%" in texts(open_page(ENDPOINTS))


def _disk_is_full(_settings, _lane):
    raise StoreError("The disk is full.", hint="Free some space.")


def keep(engines, lane):
    save_lane(engines.dashboard.settings, lane)
    engines.dashboard.reload_lanes()


class TestQuantisation:
    @pytest.fixture
    def asked(self, monkeypatch):
        """What `models_job.quantize` was asked; nothing speaks against it."""
        found = []
        monkeypatch.setattr(models_job, "check_quantization", lambda *_: ())
        monkeypatch.setattr(
            models_job, "quantize", lambda settings, model, options: found.append((model, options))
        )
        return found

    def test_the_form_starts_the_job(self, open_page, engines, asked):
        app = open_page(QUANTISE)
        field(app.number_input, "Samples").set_value(16)
        field(app.number_input, "Tokens per sample").set_value(512)
        field(app.toggle, "Search scales").set_value(True)
        submit(app, "Quantise")
        assert asked == [
            (
                engines.dashboard.registry.model("tiny"),
                AwqOptions(samples=16, seqlen=512, search_scale=True),
            )
        ]
        assert not app.error

    def test_a_file_of_ones_own_and_no_gpu(self, open_page, engines, asked):
        engines.dashboard.gpu = False
        app = open_page(QUANTISE)
        field(app.selectbox, "Calibration text").set_value("file").run()
        submit(app, "Quantise")
        assert "No calibration file is uploaded" in app.error[0].value
        field(app.file_uploader, "Calibration file").upload("texts.jsonl", b'{"text": "one"}\n')
        submit(app, "Quantise")
        ((_, options),) = asked
        kept = Path(options.calibration)
        assert options == AwqOptions(calibration=str(kept), device="cpu")
        assert kept.is_relative_to(engines.dashboard.settings.home)
        assert kept.read_bytes() == b'{"text": "one"}\n'

    def test_no_field_names_a_path_on_the_server(self, open_page):
        app = open_page(QUANTISE)
        assert [each.label for each in app.text_input] == []

    def test_without_data_there_is_nothing_to_count(self, open_page):
        app = open_page(QUANTISE)
        field(app.selectbox, "Calibration text").set_value("none").run()
        assert field(app.number_input, "Samples").disabled
        assert field(app.number_input, "Tokens per sample").disabled

    def test_warnings_are_seen_before_it_starts(self, open_page, asked, monkeypatch):
        slow = InputError("On the CPU it is slow", hint="Take `none`.", code="cpu-is-slow")
        monkeypatch.setattr(
            models_job, "check_quantization", lambda *_: (awq_check.Concern(slow, blocking=False),)
        )
        app = submit(open_page(QUANTISE), "Quantise")
        assert [each.value for each in app.warning] == [
            "On the CPU it is slow\n\nTake `none`.\n\n`cpu-is-slow`"
        ]
        assert asked == []
        app.button(key="quantise_anyway").click().run()
        assert len(asked) == 1
        assert not app.warning

    def test_a_warning_can_be_taken_to_heart(self, open_page, asked, monkeypatch):
        slow = InputError("On the CPU it is slow", hint="Take `none`.", code="cpu-is-slow")
        monkeypatch.setattr(
            models_job, "check_quantization", lambda *_: (awq_check.Concern(slow, blocking=False),)
        )
        app = submit(open_page(QUANTISE), "Quantise")
        app.button(key="quantise_not").click().run()
        assert not app.warning
        assert asked == []

    def test_what_stands_in_the_way_is_shown(self, open_page, monkeypatch):
        def refuse(*_):
            raise InputError("There is no NVIDIA GPU here", hint="Take the CPU.", code="no-gpu")

        monkeypatch.setattr(models_job, "quantize", refuse)
        app = submit(open_page(QUANTISE), "Quantise")
        assert app.error[0].value == "There is no NVIDIA GPU here\n\nTake the CPU.\n\n`no-gpu`"

    def test_progress_and_cancel(self, open_page, engines):
        now = utc_now()
        started = {"started_at": now - timedelta(minutes=10), "progress_at": now}
        engines.jobs.add(state=JobState.RUNNING, stage="Calibrating", progress=0.25, **started)
        app = open_page(QUANTISE)
        (bar,) = app.get("progress")
        assert bar.proto.value == 25
        assert re.match(r"Calibrating · 10 min \d+ s · about (29|30) min \d+ s left", bar.proto.text)
        assert "W4A16 of tiny" in texts(app)
        app.button(key="cancel_job1").click().run()
        assert engines.jobs.cancelled == ["job1"]

    def test_a_job_that_waits_or_was_cancelled(self, open_page, engines):
        engines.jobs.add(state=JobState.QUEUED)
        assert open_page(QUANTISE).get("progress")[0].proto.text == "Waiting · –"
        engines.jobs.all.clear()
        engines.jobs.add(state=JobState.CANCELLED)
        app = open_page(QUANTISE)
        assert "cancelled" in texts(app)
        assert "cancel_job1" not in keys(app)

    def test_a_job_that_failed(self, open_page, engines):
        error = ErrorInfo("disk-full", "The disk is full", "Free some of it.")
        engines.jobs.add(state=JobState.FAILED, error=error)
        app = open_page(QUANTISE)
        assert app.error[0].value == "The disk is full\n\nFree some of it.\n\n`disk-full`"
        app.session_state["job_log_job1"] = True
        assert "the log of job1" in texts(app.run())

    def test_a_result_on_a_node_is_the_nodes(self, open_page, engines):
        now = utc_now()
        result = {"source_bytes": 2**31, "result_bytes": 2**29, "path": "/nowhere"}
        times = {"started_at": now - timedelta(seconds=90), "finished_at": now}
        engines.jobs.add(node="gpu-1", state=JobState.DONE, result=result, **times)
        app = open_page(QUANTISE)
        assert "2.00 GiB → 512 MiB in 1 min 30 s" in texts(app)
        assert "lane_of_job1" not in keys(app)

    def test_a_result_and_its_lane(self, open_page, engines):
        model = engines.dashboard.registry.model("tiny")
        folder = engines.dashboard.settings.models_dir / "tiny-awq"
        folder.mkdir(parents=True)
        provenance(model).write(folder)
        now = utc_now()
        engines.jobs.add(
            target=folder, state=JobState.DONE, started_at=now - timedelta(seconds=90), finished_at=now
        )
        app = open_page(QUANTISE)
        assert "2.00 GiB → 512 MiB in 1 min 30 s" in texts(app)
        app.button(key="lane_of_job1").click().run()
        assert engines.dashboard.registry.lane("tiny-awq") == LaneSpec(
            name="tiny-awq", kind=EngineKind.AWQ, model=model, weights=Weights.AWQ
        )
        assert "lane_of_job1" not in keys(app)

    def test_a_result_that_was_deleted_since(self, open_page, engines):
        engines.jobs.add(state=JobState.DONE)
        assert "has since been deleted" in texts(open_page(QUANTISE))


def provenance(model: ModelSpec) -> Provenance:
    return Provenance(
        tool="lmdeploy",
        source=model.checkpoint,
        source_config_sha256="",
        calibration="none",
        calibration_sha256=None,
        samples=0,
        seqlen=None,
        search_scale=False,
        batch_size=1,
        dtype="float16",
        bits=4,
        group_size=128,
        versions={},
        device="cpu",
        started_at="2026-01-01T00:00:00+00:00",
        duration_s=90.0,
        source_bytes=2 * GIB,
        result_bytes=GIB // 2,
    )


class TestMachine:
    def test_findings_worst_first_each_with_its_remedy(self, open_page, engines, monkeypatch):
        found = (
            Finding(Status.OK, "Memory", "64 GiB"),
            Finding(Status.FAIL, "Driver", "525 is too old", "Install 570 or newer."),
            Finding(Status.INFO, "GPU", "none"),
            Finding(Status.WARN, "Disk", "3 GiB free"),
        )
        asked = []

        def examine(settings, lanes, *, on_findings):
            asked.append(lanes)
            on_findings(found[:2])
            return Diagnosis(findings=found, lanes=(), machine=None)

        monkeypatch.setattr(status, "examine_all", examine)
        app = open_page(MACHINE)
        lines = [m.value for m in app.main.markdown if "**" in m.value]
        assert [line.split("**")[1] for line in lines] == ["Driver", "Disk", "GPU", "Memory"]
        assert "Install 570 or newer." in lines[0]
        app.run()
        assert asked == [engines.dashboard.registry]
        submit(app, "Check this machine")
        assert len(asked) == 2


def test_the_lanes_are_read_again_when_a_quantisation_is_done(open_page, engines):
    reads = []
    engines.dashboard.reload_lanes = lambda: reads.append(1)
    app = open_page(QUANTISE)
    assert not reads
    engines.jobs.add(state=JobState.DONE)
    app.run()
    assert len(reads) == 1
    app.run()
    assert len(reads) == 1


class TestALanesFileThatBrokeMeanwhile:
    """The page goes on with the lanes that it had, and says what is wrong."""

    @pytest.fixture(autouse=True)
    def broken(self, engines):
        engines.dashboard.settings.lanes_file.write_text('[lanes.hf]\nengine = "warp"\n')

    def test_new_settings(self, open_page, engines):
        app = open_page(lane="fast")
        app.number_input(key="setting_fast_session_len").set_value(8192)
        submit(app, "Apply")
        assert "warp" in app.error[0].value
        assert not app.exception
        assert engines.manager.restarted == []

    def test_a_lane_to_forget(self, open_page, engines, server):
        spec = EndpointSpec(url=server.url, model="hello")
        lab = LaneSpec(name="lab", kind=EngineKind.ENDPOINT, endpoint=spec)
        save_lane(engines.dashboard.settings, lab)
        engines.dashboard.registry = replace(
            engines.dashboard.registry, lanes=(*engines.dashboard.registry.lanes, lab)
        )
        app = open_page(ENDPOINTS)
        submit(app, "Remove")
        assert "warp" in app.toast[0].value
        assert not app.exception

    def test_a_quantisation_that_is_done(self, open_page, engines):
        app = open_page(QUANTISE)
        engines.jobs.add(state=JobState.DONE)
        app.run()
        assert "warp" in app.toast[0].value
        assert not app.exception


class TestViewer:
    """Who may only look is offered nothing that changes something."""

    def test_engines_without_buttons_settings_log_and_keys(self, viewer, open_page, engines):
        registered(engines, api_key="own-key")
        app = open_page(lane="hf", details="Connect")
        assert not app.exception
        assert not [key for key in keys(app) if key.startswith(("engine_", "start_"))]
        assert "own-key" not in {code.value for code in app.code}
        assert not {"Settings", "Log"} & {tab.label for tab in app.tabs}

    @pytest.mark.parametrize("section", [ENDPOINTS, QUANTISE])
    def test_no_form_for_endpoints_and_quantisation(self, viewer, open_page, engines, section):
        spec = EndpointSpec(url="http://lab/v1")
        keep(engines, LaneSpec(name="lab", kind=EngineKind.ENDPOINT, endpoint=spec))
        app = open_page(section, lane="lab")
        assert not app.exception
        assert "Only operators can do this" in app.info[0].value
        assert not app.text_input
        assert "forget_lab" not in keys(app)
        assert not app.get("popover")

    def test_no_audit_log(self, viewer, open_page):
        assert not [tab.label for tab in open_page().tabs if "Audit" in tab.label]


class TestAuditLog:
    @pytest.fixture
    def audit(self, monkeypatch, tmp_path):
        log = AuditLog(f"sqlite:///{tmp_path / 'audit.db'}")
        monkeypatch.setattr(resources, "audit", lambda: log)
        yield log
        log.close()

    def test_an_empty_one_says_so(self, open_page, audit):
        assert "There are no changes yet" in open_page(AUDIT).info[0].value

    def test_the_newest_come_first_and_older_ones_by_page(self, open_page, audit):
        for number in range(51):
            audit.record(
                AuditEntry(
                    who="ada@example.com",
                    name="=Ada",
                    action=Action.STOP_ENGINE,
                    target=f"lane{number}",
                    allowed=number != 50,
                )
            )
        app = open_page(AUDIT)
        assert not app.exception
        assert "51 actions" in texts(app)
        shown = app.dataframe[0].value
        assert list(shown["target"][:2]) == ["lane50", "lane49"]
        assert list(shown["allowed"][:2]) == ["refused", "done"]
        assert list(shown["action"][:1]) == ["Stop an engine"]
        assert len(shown) == 50
        assert audit_csv(audit.entries()).splitlines()[1].split(",")[1:] == [
            "ada@example.com", "'=Ada", "stop-engine", "lane50", "False",
        ]  # fmt: skip


class TestNodes:
    @pytest.fixture
    def cluster(self, engines):
        """The lanes file names a cluster; returns what writes its last state."""
        dashboard = engines.dashboard
        dashboard.settings.lanes_file.write_text('[cluster]\naddress = "head:6379"\n' + LANES)
        dashboard.reload_lanes()
        return lambda snapshot: write_atomically(nodes_file(dashboard.settings), encode(snapshot))

    def test_without_a_cluster_there_is_no_word_of_nodes(self, open_page):
        assert "Nodes" not in [each.value for each in open_page().subheader]

    def test_a_table_shows_the_nodes_and_one_message_for_each_that_is_lost(self, open_page, cluster):
        cluster(a_snapshot(a_node(), a_lost_node()))
        app = open_page()
        table = app.table[0].value
        assert list(table["Free GPU memory"]) == ["100\\.00 GiB on 1 GPU"] * 2
        assert [("connected" in state, "lost" in state) for state in table["State"]] == [
            (True, False),
            (False, True),
        ]
        connected, lost = table["Last answer"]
        assert connected == "now"
        assert lost.startswith("1 min ")
        (message,) = [each.value for each in app.markdown if "stopped answering" in each.value]
        assert message.endswith("Lanes: hf.")

    def test_a_cluster_that_can_not_be_reached_is_one_error(self, open_page, cluster):
        cluster(a_snapshot(a_node(), problem=ErrorInfo("cluster-lost", "The cluster is gone.", "Look.")))
        (error,) = open_page().error
        assert error.value.startswith("The cluster is gone.")

    def test_a_card_names_the_node_of_its_engine(self, open_page, engines, cluster):
        cluster(a_snapshot(a_node()))
        engines.manager.nodes["hf"] = "gpu1"
        app = open_page()
        assert [each.value for each in app.caption if "node gpu1" in each.value] == [
            "Transformers · tiny · bfloat16 · node gpu1"
        ]

    def test_a_quantisation_starts_on_the_chosen_node(self, open_page, engines, cluster, monkeypatch):
        asked = []
        monkeypatch.setattr(
            quantise_panel,
            "quantize_on",
            lambda settings, node, model, options: asked.append((node, model.name, options)),
        )
        engines.dashboard.gpu = False
        cluster(a_snapshot(a_node(), a_lost_node()))
        app = open_page(QUANTISE)
        node = field(app.selectbox, "Node")
        assert node.options == ["This machine", "gpu1"]
        assert "Node gpu2 stopped answering. Check the machine." in texts(app)
        node.set_value("gpu1").run()
        submit(app, "Quantise")
        # Its GPU is what counts, not whether this machine has one.
        assert asked == [("gpu1", "tiny", AwqOptions(samples=32, seqlen=1024, device="cuda"))]

    def test_an_uploaded_file_is_not_offered_to_a_node(self, open_page, cluster):
        cluster(a_snapshot(a_node()))
        app = open_page(QUANTISE)
        field(app.selectbox, "Node").set_value("gpu1").run()
        assert "Custom text or JSONL file" not in field(app.selectbox, "Calibration text").options
