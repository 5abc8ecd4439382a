"""The memory page over samples that the tests describe."""

import json
import re
import time
from dataclasses import replace
from types import SimpleNamespace

import page_fakes
import pytest

from core.bench.memory_sweep import PointResult, SweepPlan, SweepPoint, SweepRun, save
from core.chat_api.servers import ServerMetrics
from core.codec import encode
from core.domain.specs import ClusterSpec
from core.domain.turns import ErrorInfo
from core.engines.resolve import nodes_file
from core.files import write_atomically
from core.jobs.registry import JobRecord, Jobs, JobSpec, JobState, JobStatus
from core.memory.prediction import KvLog, MemoryPart
from core.settings import Settings
from core.telemetry.samples import (
    EngineGpuMemory,
    EngineReading,
    Event,
    EventKind,
    Gap,
    GpuReading,
    MemorySource,
    Sample,
)
from core.ui.memory import measured
from core.ui.shared import resources
from tests.unit.engines.node_samples import a_lost_node, a_node, a_snapshot
from tests.unit.models import model_configs as published

GIB = 2**30
S = 1_000_000_000


def gpu(index=0, **changes):
    return GpuReading(
        **{
            "index": index,
            "name": "H100",
            "total_bytes": 80 * GIB,
            "used_bytes": 30 * GIB,
            "free_bytes": 49 * GIB,
            "utilisation_ratio": 0.5,
            "power_w": 300.0,
            "energy_j": 1000.0,
            "temperature_c": 50.0,
            **changes,
        }
    )


def engine(name="hf", used_gib=None, source=MemorySource.PROCESSES, gpu=0, reason=""):
    shares = ()
    if used_gib is not None or reason:
        size = None if used_gib is None else int(used_gib * GIB)
        shares = (EngineGpuMemory(gpu=gpu, used_bytes=size, source=source if size else None, reason=reason),)
    return EngineReading(name=name, pid=4711, gpu_memory=shares, resident_bytes=2 * GIB, cpu_ratio=1.25)


class FakeSampler:
    def __init__(self):
        self.gpus = ()
        self.engines = (engine(), engine("hf-q4"))
        self.problem = None

    def sample(self):
        return self._at(time.perf_counter_ns())

    def samples(self, since_ns=None):
        now = time.perf_counter_ns()
        return tuple(self._at(now - ago * S) for ago in (3, 2, 1))

    def _at(self, at_ns):
        return Sample(at_ns=at_ns, gpus=self.gpus, engines=self.engines, problem=self.problem)


class FakeWatch:
    def __init__(self):
        self.kv = {}
        self.marked = ()

    def events(self, since_ns=None):
        return self.marked

    def kv_log(self, name):
        return self.kv.get(name)


@pytest.fixture
def memory(world, monkeypatch, tmp_path):
    """The stand-ins behind the page: `sampler`, `watch`, `settings`, `metrics` of every server."""
    settings = Settings(home=tmp_path, lanes_file=tmp_path / "lanes.toml", database_url="sqlite://")
    things = SimpleNamespace(sampler=FakeSampler(), watch=FakeWatch(), settings=settings, metrics=None)
    monkeypatch.setattr(resources, "sampler", lambda: things.sampler)
    monkeypatch.setattr(resources, "watch", lambda: things.watch)
    monkeypatch.setattr(resources, "resources", lambda: SimpleNamespace(settings=settings))
    monkeypatch.setattr(measured, "server_metrics", lambda *a, **k: things.metrics)
    return things


@pytest.fixture
def open_page(memory, new_app):
    def open_section(section=None):
        app = new_app().run()
        app.switch_page("pages/memory.py").run()
        if section:
            app.session_state["memory_section"] = section
            app.run()
        assert not app.exception
        return app

    return open_section


def texts(app):
    kinds = (app.markdown, app.caption, app.error, app.info, app.warning)
    return "\n".join(element.value for kind in kinds for element in kind)


def metrics_of(app):
    return {metric.label: metric.value for metric in app.metric}


def charts(app):
    return app.get("plotly_chart")


def test_on_a_laptop_the_page_shows_process_trees(open_page):
    app = open_page()
    assert texts(app).count("Host memory: **2.00 GiB**") == 2
    assert "CPU: **1.25** cores" in texts(app)
    assert "Resident memory, GiB" in charts(app)[0].proto.spec
    assert not app.metric
    assert not app.pills


def test_a_gpu_has_cards_and_its_engines_shares(open_page, memory):
    memory.sampler.gpus = (gpu(),)
    memory.sampler.engines = (engine("hf", 4.25), engine("hf-q4", 20, MemorySource.DIFFERENCE))
    app = open_page()
    cards = metrics_of(app)
    assert cards["Memory used"] == "30.00 GiB of 80.00 GiB"
    assert (cards["Utilisation"], cards["Power"], cards["Temperature"]) == ("50%", "300 W", "50 °C")
    assert "GPU memory: **4.25 GiB**" in texts(app)
    assert "GPU memory: **20.00 GiB** by difference" in texts(app)
    assert "GPU memory, GiB" in charts(app)[0].proto.spec


def test_the_pill_chooses_the_gpu(open_page, memory):
    memory.sampler.gpus = (gpu(0), gpu(1, used_bytes=5 * GIB))
    app = open_page()
    app.pills(key="memory_gpu").set_value(1).run()
    assert metrics_of(app)["Memory used"] == "5.00 GiB of 80.00 GiB"


def test_what_can_t_be_read_is_a_dash_with_its_reason(open_page, memory):
    memory.sampler.gpus = (
        gpu(power_w=None, used_bytes=None, gaps=(Gap("power_w", "Not supported by this GPU"),)),
    )
    memory.sampler.engines = (engine(reason="Can't read the GPU's used memory."),)
    app = open_page()
    power = next(metric for metric in app.metric if metric.label == "Power")
    assert (power.value, power.proto.help) == ("–", "Not supported by this GPU")
    assert "Can't read the GPU's used memory" in texts(app)


def test_a_vanished_driver_is_a_line_and_no_exception(open_page, memory):
    memory.sampler.problem = ErrorInfo("no-driver", "The NVIDIA driver is gone", "Look at dmesg.")
    assert "The NVIDIA driver is gone" in texts(open_page())


def test_no_engine_is_said(open_page, memory):
    memory.sampler.engines = ()
    assert "No engine is running" in texts(open_page())


def test_events_reach_the_chart(open_page, memory):
    memory.watch.marked = (Event(time.perf_counter_ns() - 2 * S, "hf", EventKind.READY),)
    assert '"ready"' in charts(open_page())[0].proto.spec


def test_freezing_opens_the_tools_of_the_chart(open_page):
    app = open_page()
    assert "scrollZoom" not in charts(app)[0].proto.config
    app.toggle(key="memory_freeze").set_value(True).run()
    assert '"scrollZoom": true' in charts(app)[0].proto.config


def test_a_frozen_chart_is_still_frozen_when_somebody_comes_back(open_page):
    app = open_page()
    app.toggle(key="memory_freeze").set_value(True).run()
    app.switch_page("pages/engines.py").run()
    app.switch_page("pages/memory.py").run()
    assert app.toggle(key="memory_freeze").value
    assert '"scrollZoom": true' in charts(app)[0].proto.config


def test_the_split_names_every_part_and_its_source(open_page, memory, monkeypatch):
    memory.sampler.gpus = (gpu(),)
    memory.sampler.engines = (engine("hf", 26),)
    memory.watch.kv = {"hf": KvLog(reserved_bytes=20 * GIB, free_bytes=40 * GIB, ratio=0.5)}
    monkeypatch.setattr(measured, "_weight_bytes", lambda lane: 4 * GIB)
    text = texts(open_page())
    assert "| weights | 4.00 GiB | checkpoint files |" in text
    assert "| KV reserved | 20.00 GiB | engine's log |" in text
    assert "| baseline | – |" in text
    assert "| other | 2.00 GiB |" in text
    assert "NVML, the engine's processes" in text


def test_remote_lanes_tell_their_load(open_page, memory):
    assert "No `/metrics`" in texts(open_page())
    memory.metrics = ServerMetrics(kv_used_ratio=0.25, running=3, waiting=None)
    assert "3 running · – waiting · KV cache 25%" in texts(open_page())


def test_the_explorer_predicts_for_a_gpu_that_is_not_here(open_page):
    app = open_page(":material/calculate: KV cache explorer")
    cards = metrics_of(app)
    assert cards["Weights"] == "14.41 GiB"
    before = cards["Tokens that fit"]
    assert "AWQ frees **9.55 GiB**" in texts(app)
    app.segmented_control(key="explorer_bits").set_value(4).run()
    assert int(metrics_of(app)["Tokens that fit"].replace(",", "")) > 3 * int(before.replace(",", ""))
    assert len(charts(app)) == 2


def test_the_explorer_keeps_its_values_while_another_tab_is_open(open_page):
    app = open_page(":material/calculate: KV cache explorer")
    app.slider(key="explorer_ratio").set_value(0.3)
    app.number_input(key="explorer_batch").set_value(8)
    app.selectbox(key="explorer_model").set_value("Qwen2.5-72B").run()
    cards = metrics_of(app)
    app.session_state["memory_section"] = ":material/monitoring: Live"
    app.run()
    app.session_state["memory_section"] = ":material/calculate: KV cache explorer"
    app.run()
    assert metrics_of(app) == cards


def test_the_explorer_says_when_nothing_fits_and_what_would(open_page):
    app = open_page(":material/calculate: KV cache explorer")
    app.slider(key="explorer_ratio").set_value(0.95).run()
    assert "The largest KV cache ratio that fits" in texts(app)
    app.selectbox(key="explorer_model").set_value("Qwen2.5-72B").run()
    assert "Changing the KV cache ratio won't help" in texts(app)


def test_several_gpus_have_figures_per_gpu(open_page):
    app = open_page(":material/calculate: KV cache explorer")
    app.segmented_control(key="explorer_tp").set_value(2).run()
    assert {"Weights per GPU", "KV cache per GPU", "Total per GPU", "Headroom per GPU"} <= set(
        metrics_of(app)
    )


def test_what_awq_frees_where_it_does_not_help_or_decides(open_page):
    app = open_page(":material/calculate: KV cache explorer")
    app.selectbox(key="explorer_model").set_value("Qwen2.5-72B").run()
    assert "which isn't enough to fit here" in texts(app)
    assert "hardly shrinks" not in texts(app)
    app.selectbox(key="explorer_model").set_value("Qwen2.5-14B").run()
    assert "The engine fits only with AWQ" in texts(app)


def test_a_pasted_config_is_predicted_and_said_to_be_counted(open_page):
    app = open_page(":material/calculate: KV cache explorer")
    app.text_area(key="explorer_config").set_value(json.dumps(published.LLAMA_3_1_8B)).run()
    assert metrics_of(app)["Weights"] == "14.96 GiB"
    assert "counted from config.json" in texts(app)
    assert app.selectbox(key="explorer_model").disabled
    app.text_area(key="explorer_config").set_value("").run()
    assert metrics_of(app)["Weights"] == "14.41 GiB"


@pytest.mark.parametrize(
    ("pasted", "said"),
    [
        ("{", "is not JSON"),
        ("[1]", "is not an object"),
        ("{}", "has no num_hidden_layers"),
        (json.dumps(published.QWEN3_NEXT_80B), "fixed-size state"),
        (json.dumps({**published.LLAMA_3_1_8B, "num_attention_heads": "many"}), "should be a whole number"),
    ],
)
def test_what_is_wrong_with_a_pasted_config_is_told(open_page, pasted, said):
    app = open_page(":material/calculate: KV cache explorer")
    app.text_area(key="explorer_config").set_value(pasted).run()
    assert said in app.error[0].value.replace("\\", "")
    assert not app.metric


def test_a_model_that_is_not_here_is_a_message(open_page):
    app = open_page(":material/calculate: KV cache explorer")
    app.selectbox(key="explorer_model").set_value(page_fakes.MODEL.name).run()
    assert len(app.error) == 1
    assert not app.exception


def test_engines_after_each_other_take_of_what_is_left(open_page):
    app = open_page(":material/stacks: Several engines")
    assert len(charts(app)) == 1
    verdict = r"\| (?:[\d.]+ [GM]iB|:red\[[\d.]+ [GM]iB short\]) \|$"
    assert len(re.findall(verdict, texts(app), re.MULTILINE)) == 2


def test_without_a_gpu_there_is_nothing_to_sweep(open_page):
    app = open_page(":material/tune: Sweep")
    assert "this machine has none" in texts(app)


def test_a_sweep_starts_with_what_the_form_says(open_page, memory, monkeypatch):
    started = []
    monkeypatch.setattr(
        "core.ui.memory.measured.start_sweep", lambda settings, plan, *, node: started.append((plan, node))
    )
    memory.sampler.gpus = (gpu(),)
    app = open_page(":material/tune: Sweep")
    next(button for button in app.button if button.label == "Start sweep").click().run()
    ((plan, node),) = started
    assert [point.ratio for point in plan.points] == [0.8, 0.6, 0.4, 0.2, 0.05]
    assert (plan.model, node) == (page_fakes.MODEL, None)


@pytest.fixture
def cluster(memory, monkeypatch):
    """A cluster of gpu1, gpu3 without a GPU, and gpu2, which is lost."""
    book = replace(page_fakes.BOOK, cluster=ClusterSpec(address="auto"))
    monkeypatch.setattr(resources, "lanes", lambda: book)
    snapshot = a_snapshot(a_node("gpu3", gpus=()), a_node(), a_lost_node())
    write_atomically(nodes_file(memory.settings), encode(snapshot))


def test_without_a_cluster_no_node_can_be_chosen(open_page):
    app = open_page(":material/tune: Sweep")
    assert "Node" not in [each.label for each in app.selectbox]


def test_a_sweep_starts_on_the_chosen_node(open_page, cluster, monkeypatch):
    started = []
    monkeypatch.setattr(
        "core.ui.memory.measured.start_sweep",
        lambda settings, plan, *, node: started.append((plan.gpu, node)),
    )
    app = open_page(":material/tune: Sweep")
    assert "this machine has none" in texts(app)
    node = next(each for each in app.selectbox if each.label == "Node")
    assert node.options == ["This machine", "gpu1", "gpu3"]
    assert "Node gpu2 stopped answering. Check the machine." in texts(app)
    node.set_value("gpu3").run()
    assert "node gpu3 has none" in texts(app)
    node = next(each for each in app.selectbox if each.label == "Node")
    node.set_value("gpu1").run()
    gpu = next(each for each in app.selectbox if each.label == "GPU")
    assert gpu.options == ["GPU 0 · NVIDIA H200"]
    next(button for button in app.button if button.label == "Start sweep").click().run()
    assert started == [(0, "gpu1")]


def test_a_running_sweep_shows_progress_and_what_it_has(open_page, memory, monkeypatch):
    point = SweepPoint(ratio=0.4)
    plan = SweepPlan(model=page_fakes.MODEL, points=(point, SweepPoint(ratio=0.2)))
    measured = PointResult(
        point=point,
        predicted_parts=(MemoryPart("weights", 21 * GIB, "checkpoint"),),
        predicted_kv_bytes=19 * GIB,
        measured_bytes=20 * GIB,
        log_kv_bytes=20 * GIB,
    )
    failed = PointResult(point=SweepPoint(ratio=0.2), error=ErrorInfo("gpu-full", "It does not fit"))
    save(memory.settings, SweepRun(plan=plan, gpu_name="H100", gpu_total_bytes=1, points=(measured, failed)))
    spec = JobSpec(
        kind="memory-sweep", title="Sweep", worker="w", arguments={"plan": {"id": plan.id}}, python="python"
    )
    status = JobStatus(spec, JobRecord(state=JobState.RUNNING, stage="1 of 2 measured", progress=0.5))
    cancelled = []
    monkeypatch.setattr(Jobs, "statuses", lambda self, kind=None: (status,))
    monkeypatch.setattr(Jobs, "cancel", lambda self, job_id: cancelled.append(job_id))
    app = open_page(":material/tune: Sweep")
    assert "+5.0%" in charts(app)[0].proto.spec
    assert "-5.0%" in texts(app)
    assert "It does not fit" in texts(app)
    next(button for button in app.button if button.label == "Cancel").click().run()
    assert cancelled == [spec.id]
