"""The benchmark page: the form and its mistakes, a run under way, its end, and its result."""

import json
import re
import time
from dataclasses import replace
from datetime import timedelta
from types import SimpleNamespace

import page_fakes
import pytest

from core.bench.passes import Preset, preset_plan
from core.bench.plan import BenchPlan, Isolation, Limits, Load, LoadKind, PromptKind, SendFrom
from core.bench.results.definitions import Tool
from core.bench.results.result import RunRecords
from core.bench.workload import keep_prompt_file
from core.codec import encode
from core.config import LaneRegistry
from core.domain.runs import EngineQueue, GpuUse, LaneFacts, RunState
from core.domain.specs import ClusterSpec
from core.domain.turns import ErrorInfo, Place, utc_now
from core.errors import InputError
from core.images.gallery import gallery
from core.images.sanitise import sanitise
from core.images.store import ImageStore
from core.jobs.registry import JobFolder, JobRecord, JobSpec, JobState, JobStatus
from core.settings import Settings
from core.store.history import History
from core.store.runs import BenchRuns
from core.ui.benchmark import form as bench_form
from core.ui.benchmark import runs as bench_runs_page
from core.ui.benchmark.form_state import Extent, Prompts
from core.ui.shared import jobs as shared_jobs
from core.ui.shared import resources
from tests import scripted_server
from tests.unit.bench.bench_samples import (
    A,
    B,
    a_failure,
    a_pass,
    a_plan,
    a_record,
    a_request,
    a_timing,
    remote,
)


class Bench:
    """What is behind the page: lanes, the store for real, and jobs that the tests describe."""

    def __init__(self, folder):
        url = f"sqlite:///{folder / 'home' / 'lmdyno.db'}"
        self.settings = Settings(home=folder / "home", lanes_file=folder / "lanes.toml", database_url=url)
        self.runs, self.history = BenchRuns(url), History(url)
        self.records = RunRecords(self.runs)
        self.lanes = (page_fakes.HF, page_fakes.HF_Q4, page_fakes.REMOTE)
        self.cluster: ClusterSpec | None = None
        self.jobs: list[JobStatus] = []
        self.started: list[BenchPlan] = []
        self.cancelled: list[str] = []
        self.refusal: InputError | None = None

    def start(self, _settings, plan, *, gpu):
        if self.refusal:
            raise self.refusal
        self.started.append(plan)

    def job(self, job_id="run1", state=JobState.RUNNING, title="quick look", **record):
        spec = JobSpec(
            id=job_id, kind="bench", title=title, worker="w", arguments={}, device="cpu", python="python"
        )
        self.jobs.append(JobStatus(spec, JobRecord(state=state, **record)))
        return spec.id

    def was_started(self, plan=None, *, arguments=None):
        """As a dashboard before this one left it."""
        arguments = arguments if plan is None else {"plan": encode(plan).decode()}
        spec = JobSpec(kind="bench", title="t", worker="w", python="p", arguments=arguments)
        folder = JobFolder(self.settings.home / "jobs" / spec.id)
        folder.create(spec)
        folder.write(JobRecord(state=JobState.DONE))

    def keep(self, record):
        self.runs.save(record.run, record.passes, record.requests)
        return record.run.id

    def running(self, _settings):
        return tuple(status for status in self.jobs if not status.state.ended)[::-1]

    def as_jobs(self, _settings):
        return SimpleNamespace(
            statuses=lambda _kind=None: tuple(self.jobs[::-1]), cancel=self.cancelled.append
        )


@pytest.fixture
def real(world, monkeypatch, tmp_path):
    """Lanes and a home of the test's own; runs would really be started."""
    bench = Bench(tmp_path)
    registry = lambda: LaneRegistry(  # noqa: E731
        models=(), lanes=bench.lanes, source=None, cluster=bench.cluster
    )
    monkeypatch.setattr(resources, "resources", lambda: SimpleNamespace(settings=bench.settings, gpu=False))
    monkeypatch.setattr(resources, "lanes", registry)
    monkeypatch.setattr(resources, "autostarted", lambda settings, lanes, *, gpu: lanes[:2])
    monkeypatch.setattr(resources, "bench_runs", lambda: bench.runs)
    monkeypatch.setattr(resources, "history", lambda: bench.history)
    monkeypatch.setattr(resources, "run_records", lambda: bench.records)
    monkeypatch.setattr(resources, "sampler", lambda: SimpleNamespace(samples=tuple))
    yield bench
    bench.runs.close()
    bench.history.close()


@pytest.fixture
def bench(real, monkeypatch):
    """The same with jobs that the test describes."""
    for module in (bench_form, bench_runs_page):
        monkeypatch.setattr(module, "running_benches", real.running)
    for module in (shared_jobs, bench_runs_page):
        monkeypatch.setattr(module, "Jobs", real.as_jobs)
    monkeypatch.setattr(bench_form, "start_bench", real.start)
    return real


@pytest.fixture
def open_page(real, new_app):
    def open_at(**query):
        app = new_app(**query)
        app.switch_page("pages/benchmark.py").run()
        assert not app.exception
        return app

    return open_at


def texts(app):
    kinds = (app.markdown, app.caption, app.error, app.info)
    return "\n".join(element.value for kind in kinds for element in kind)


def press_start(app):
    app.button(key="bench_start").click().run()
    assert not app.exception
    return app


def finished(**changes):
    """Two lanes at two loads, one request of the second failed."""
    plan = a_plan(A, B, title="two lanes", limits=Limits(ttft_s=1.0), **changes)
    passes = [a_pass(0, ("a",)), a_pass(1, ("b",))]
    requests = [a_request(n, "a", timing=a_timing(gap_s=0.02)) for n in range(3)]
    requests += [a_request(n, "b", pass_number=1) for n in range(3, 6)]
    requests.append(replace(a_failure(6, "engine-busy", "b"), pass_number=1))
    return a_record(plan, passes, requests)


def keyed(widgets, name: str):
    """The widget of that name, whose key the page may have renewed."""
    return next(each for each in widgets if re.fullmatch(rf"{name}(_\d+)?", each.key or ""))


class TestForm:
    def test_it_opens_with_the_quick_look_at_the_machines_lanes(self, open_page, bench):
        app = open_page()
        assert app.segmented_control(key="bench_preset").value == "quick look"
        assert "Lanes: hf, hf-q4" in texts(app).replace("\\", "")
        assert "Estimated duration: **" in texts(app)
        assert "Not comparable with GPU figures" in texts(app)
        (plan,) = press_start(app) and bench.started
        assert [lane.name for lane in plan.lanes] == ["hf", "hf-q4"]
        assert (plan.title, plan.seconds, plan.load.concurrencies) == ("quick look", 13, (1, 4))

    def test_a_preset_fills_the_fields_and_a_change_leaves_it(self, open_page):
        app = open_page()
        app.segmented_control(key="bench_preset").set_value(Preset.CHAT).run()
        assert keyed(app.text_input, "bench_concurrencies").value == "1, 2, 4, 8, 16"
        assert keyed(app.selectbox, "bench_limits").value == "chat"
        keyed(app.number_input, "bench_output_tokens").set_value(99).run()
        assert keyed(app.segmented_control, "bench_preset").value is None
        assert keyed(app.text_input, "bench_concurrencies").value == "1, 2, 4, 8, 16"

    def test_the_quick_look_stays_a_minute_with_other_lanes(self, open_page):
        app = open_page()
        app.pills(key="bench_lanes").set_value(["remote"]).run()
        assert keyed(app.number_input, "bench_seconds").value == 28

    def test_every_field_reaches_the_plan(self, open_page, bench):
        app = open_page()
        app.selectbox(key="bench_baseline").set_value("hf-q4")
        app.segmented_control(key="bench_isolation").set_value(Isolation.TOGETHER)
        app.segmented_control(key="bench_prompts").set_value(Prompts.EXAMPLES)
        app.segmented_control(key="bench_load").set_value(LoadKind.OPEN)
        app.segmented_control(key="bench_extent").set_value(Extent.REQUESTS)
        app.selectbox(key="bench_limits").set_value("own").run()
        app.text_input(key="bench_rates").set_value("0.5, 1")
        app.number_input(key="bench_requests").set_value(40)
        app.number_input(key="bench_repeats").set_value(2)
        assert app.number_input(key="bench_workers").value is None
        app.number_input(key="bench_workers").set_value(3)
        app.text_input(key="bench_own_limits").set_value("ttft=0.5")
        app.text_input(key="bench_title").set_value("mine")
        app.run()
        assert "Sending processes: 3" in texts(app).replace("\\", "")
        (plan,) = press_start(app) and bench.started
        assert [lane.name for lane in plan.lanes] == ["hf-q4", "hf"]
        assert (plan.isolation, plan.workload.prompts) == (Isolation.TOGETHER, PromptKind.EXAMPLES)
        assert (plan.load.kind, plan.load.rates_req_per_s) == (LoadKind.OPEN, (0.5, 1.0))
        assert (plan.requests, plan.repeats, plan.limits, plan.title) == (40, 2, Limits(ttft_s=0.5), "mine")
        assert plan.workers == 3

    def test_with_a_cluster_requests_can_be_sent_from_its_nodes(self, open_page, bench):
        assert not [each for each in open_page().selectbox if each.key == "bench_send_from"]
        bench.cluster = ClusterSpec(address="head:6379")
        app = open_page()
        app.selectbox(key="bench_send_from").set_value(SendFrom.ENGINE).run()
        assert "Sent from: the engine's node" in texts(app).replace("\\", "")
        (plan,) = press_start(app) and bench.started
        assert plan.send_from is SendFrom.ENGINE

    @pytest.mark.parametrize("text", ["", "one", "0", "9999", "1, 1"])
    def test_bad_input_is_an_error_at_the_form(self, open_page, bench, text):
        app = open_page()
        app.text_input(key="bench_concurrencies").set_value(text).run()
        assert not app.exception
        assert len(app.error) == 1
        assert app.button(key="bench_start").disabled
        app.text_input(key="bench_concurrencies").set_value("2").run()
        assert not app.error

    def test_without_a_lane_nothing_can_start(self, open_page):
        app = open_page()
        app.pills(key="bench_lanes").set_value([]).run()
        assert "No lane is selected" in app.error[0].value

    def test_a_prompt_file_is_kept_or_refused(self, open_page, bench):
        app = open_page()
        app.segmented_control(key="bench_prompts").set_value(Prompts.FILE).run()
        assert "No prompt file is chosen" in app.error[0].value
        app.file_uploader(key="bench_upload").set_value(("bad.jsonl", b"{}\n", "text/plain")).run()
        assert "Can't use the prompts in bad.jsonl" in app.error[0].value.replace("\\", "")
        app.file_uploader(key="bench_upload").set_value(("good.txt", b"one\ntwo\n", "text/plain")).run()
        assert not app.error
        (plan,) = press_start(app) and bench.started
        assert plan.workload.prompts is PromptKind.TEXT
        assert plan.workload.path.startswith(str(bench.settings.home))

    def test_images_go_with_the_requests(self, open_page, bench, monkeypatch):
        image_store = ImageStore(bench.settings.images_dir)
        monkeypatch.setattr(resources, "image_store", lambda: image_store)
        bench.lanes = (page_fakes.REMOTE,)
        app = open_page()
        app.toggle(key="bench_with_images").set_value(True).run()
        assert "No image is selected" in app.error[0].value
        cat = next(each.path for each in gallery() if each.path.name == "cat.jpg")
        files = [("cat.jpg", cat.read_bytes(), "image/jpeg"), ("bad.png", b"no", "image/png")]
        app.file_uploader(key="bench_image_upload").set_value(files).run()
        assert "bad.png is not an image" in app.error[0].value.replace("\\", "")
        assert "an image with each request" in " ".join(text.value for text in app.caption)
        (plan,) = press_start(app) and bench.started
        assert [image.name for image in plan.workload.images] == ["cat.jpg"]
        assert image_store.read(plan.workload.images[0])
        app.toggle(key="bench_with_images").set_value(False).run()
        press_start(app)
        assert [len(each.workload.images) for each in bench.started] == [1, 0]

    def test_a_reload_begins_with_the_plan_that_was_started_last(self, open_page, bench, monkeypatch):
        image_store = ImageStore(bench.settings.images_dir)
        monkeypatch.setattr(resources, "image_store", lambda: image_store)
        cat = next(each.path for each in gallery() if each.path.name == "cat.jpg")
        shown = image_store.put(sanitise(cat.read_bytes(), name="cat.jpg"))
        gone = replace(shown, sha256="0" * 64)
        file = keep_prompt_file(bench.settings, "mine.txt", b"one\ntwo\n")
        plan = a_plan(
            page_fakes.REMOTE,
            page_fakes.HF,
            workload=replace(file, output_tokens=7, images=(shown, gone)),
            load=Load(kind=LoadKind.OPEN, rates_req_per_s=(0.5, 2)),
            isolation=Isolation.TOGETHER,
            title="mine",
        )
        bench.was_started(plan)
        app = open_page()
        assert app.segmented_control(key="bench_preset").value is None
        assert app.text_input(key="bench_rates").value == "0.5, 2"
        (again,) = press_start(app) and bench.started
        wanted = replace(plan, workload=replace(plan.workload, images=(shown,)))
        assert replace(again, id=plan.id, created_at=plan.created_at) == wanted

    def test_a_preset_that_was_started_last_is_marked(self, open_page, bench):
        bench.was_started(preset_plan(Preset.CHAT, (page_fakes.HF,)))
        app = open_page()
        assert app.segmented_control(key="bench_preset").value == Preset.CHAT
        assert app.pills(key="bench_lanes").value == ["hf"]

    @pytest.mark.parametrize("arguments", [{}, {"plan": "{}"}, {"plan": encode(a_plan(A)).decode()}])
    def test_a_last_plan_that_is_of_no_use_changes_nothing(self, open_page, bench, arguments):
        bench.was_started(arguments=arguments)
        assert open_page().segmented_control(key="bench_preset").value == Preset.QUICK_LOOK

    def test_a_run_that_can_not_start_says_why(self, open_page, bench):
        bench.refusal = InputError("It did not start", hint="Look here.", code="job-not-started")
        app = press_start(open_page())
        assert app.error[0].value == "It did not start\n\nLook here.\n\n`job-not-started`"

    def test_earlier_runs_tell_how_long_it_takes(self, open_page, bench):
        bench.lanes = (A, B)
        assert "rough guess" in texts(open_page())
        bench.keep(finished())
        assert "from earlier runs" in texts(open_page())


class TestWhileItRuns:
    def test_progress_figures_and_points(self, open_page, bench):
        bench.lanes = (A, B)
        now = utc_now()
        record = finished(id="run1")
        unfinished = [record.passes[0], replace(record.passes[1], end_ns=None)]
        bench.keep(replace(record, run=replace(record.run, state=RunState.RUNNING), passes=tuple(unfinished)))
        bench.job(
            stage="b · concurrency 1: 3 requests",
            progress=0.5,
            started_at=now - timedelta(seconds=60),
            progress_at=now,
        )
        app = open_page()
        (bar,) = app.get("progress")
        assert bar.proto.value == 50
        assert "b · concurrency 1\\: 3 requests" in bar.proto.text
        assert "left" in bar.proto.text
        figures = {metric.label: metric.value for metric in app.metric}
        assert (figures["Answered"], figures["Failed"], figures["TPOT, p50"]) == ("3", "1", "10.0 ms")
        assert len(app.get("plotly_chart")) == 1
        assert "**a**" in texts(app)
        assert "There are no results yet" not in texts(app)
        assert app.button(key="bench_start").label == "Queue after the current run"

    def test_stop_asks_the_job_to_end(self, open_page, bench):
        bench.job()
        app = open_page()
        app.button(key="cancel_run1").click().run()
        assert bench.cancelled == ["run1"]
        assert app.button(key="cancel_run1").disabled

    def test_a_second_run_on_the_device_waits(self, open_page, bench):
        bench.job()
        bench.job("run2", JobState.QUEUED, title="the next", stage="waiting for cpu")
        text = texts(open_page())
        assert "another job is using it" in text
        assert text.index("quick look") < text.index("the next")

    def test_a_job_that_failed_before_its_run_began_is_shown(self, open_page, bench):
        bench.job(state=JobState.FAILED, error=ErrorInfo("engine-crashed", "It died", "Look"))
        assert open_page().error[0].value == "It died\n\nLook\n\n`engine-crashed`"

    def test_the_result_appears_when_it_ends(self, open_page, bench):
        bench.lanes = (A, B)
        bench.keep(finished(id="old"))
        bench.job("new")
        app = open_page()
        bench.jobs.clear()
        bench.keep(finished(id="new"))
        app.run()
        assert app.selectbox(key="bench_run").value == "new"
        assert app.button(key="bench_start").label == "Start"


class TestResult:
    @pytest.fixture
    def app(self, open_page, bench):
        bench.lanes = (A, B)
        bench.keep(finished())
        return open_page()

    def charts(self, app, tab):
        app.session_state["bench_result_tab"] = next(
            label for label in (tab_.label for tab_ in app.tabs) if label.endswith(tab)
        )
        app.run()
        assert not app.exception
        return [chart.proto.spec for chart in app.get("plotly_chart")]

    def test_nothing_yet_is_an_invitation(self, open_page):
        assert "There are no results yet" in texts(open_page())

    def test_figures_conditions_and_place(self, app):
        text = texts(app)
        assert "two lanes" in text
        assert "lab · H100 · EPYC" in text
        assert "one lane at a time, the others idle" in text
        assert "20.0\u00a0ms" in text.replace("\\", "")
        assert ":gray[" in text
        assert ":red[1]" in text

    def test_the_head_says_where_an_engine_ran(self, open_page, bench):
        bench.lanes = (A, B)
        record = finished()
        place = Place(node="gpu1", measured_on="gpu1", over_network=False)
        lanes = tuple(replace(facts, place=place) for facts in record.run.lanes)
        bench.keep(replace(record, run=replace(record.run, lanes=lanes)))
        assert "a: on node gpu1, measured there" in texts(open_page()).replace("\\", "")

    @pytest.mark.parametrize(
        ("tab", "titles"),
        [
            ("Latency", ["TTFT", "TPOT", "ITL", "E2E"]),
            (
                "Throughput",
                ["System throughput vs per-request speed", "System speed", "Answered requests", "Goodput"],
            ),
            ("Gaps", ["Gaps between tokens"]),
            ("Timeline", ["Requests over time"]),
            ("Lanes", ["Decode speed relative to a"]),
            ("Failures", ["Failed requests by cause"]),
        ],
    )
    def test_every_tab_has_its_charts(self, app, tab, titles):
        specs = self.charts(app, tab)
        assert len(specs) == len(titles)
        for title, spec in zip(titles, specs, strict=True):
            drawn = json.loads(spec)["layout"]["title"]
            assert drawn["text"].startswith(title)
            assert "one lane at a time" in drawn["subtitle"]["text"]

    def test_both_halves_of_queueing_are_told_apart(self, open_page, bench):
        record = finished()
        counted = EngineQueue(lane="a", requests=3, total_s=0.375)
        bench.lanes = (A, B)
        bench.keep(replace(record, passes=(replace(record.passes[0], queues=(counted,)), record.passes[1])))
        app = open_page()
        self.charts(app, "Latency")
        table = next(each.value for each in app.markdown if "in the engine" in each.value)
        a, b = table.splitlines()[2:]
        assert a.split(" | ")[-2:] == ["125\u00a0ms", "3 |"]
        assert b.split(" | ")[-2:] == ["–", "– |"]
        assert "schedule → send" in texts(app)

    def test_what_is_not_known_says_why(self, app):
        self.charts(app, "Lanes")
        assert "Its weights and its GPU are on another machine" in texts(app)
        self.charts(app, "Resources")
        assert "Energy: not available" in texts(app)

    def test_a_gpu_has_a_limit_that_is_called_theory(self, open_page, bench):
        bench.lanes = (A, B)
        record = finished()
        gpu = GpuUse(index=0, name="NVIDIA H100 80GB HBM3", energy_j=33.0)
        facts = LaneFacts(lane=A, device="cuda:0", weight_bytes=10**10)
        bench.keep(
            replace(
                record,
                run=replace(record.run, lanes=(facts, record.run.lanes[1])),
                passes=tuple(replace(each, gpus=(gpu,)) for each in record.passes),
            )
        )
        app = open_page()
        limit = next(spec for spec in self.charts(app, "Lanes") if "Model bandwidth utilisation" in spec)
        assert "theory" in limit
        # 3,350 GB/s over 10 GB are 335 tokens a second at best, against 50 measured.
        assert json.loads(limit)["data"][0]["text"] == ["15%"]
        assert "from the data sheet" in texts(app)
        assert "Energy per output token" in "".join(self.charts(app, "Resources"))

    def test_the_definition_switch_changes_the_figures_and_says_how(self, app):
        assert "20.0\u00a0ms" in texts(app).replace("\\", "")
        app.segmented_control(key="bench_result_definition").set_value(Tool.GUIDELLM).run()
        text = texts(app)
        assert "includes the TTFT" in text
        # (0.1 s + 10 × 0.02 s) / 11 tokens.
        assert "27.3\u00a0ms" in text.replace("\\", "")

    def test_log_scale_statistic_and_image_reach_the_charts(self, app):
        app.toggle(key="bench_result_log").set_value(True)
        app.segmented_control(key="bench_result_statistic").set_value("p95")
        app.segmented_control(key="bench_result_image").set_value("SVG").run()
        chart = app.get("plotly_chart")[0].proto
        layout = json.loads(chart.spec)["layout"]
        assert layout["yaxis"]["type"] == "log"
        assert "p95" in layout["title"]["text"]
        assert json.loads(chart.config)["toImageButtonOptions"]["format"] == "svg"

    def test_exports_are_offered(self, app):
        assert [button.label for button in app.get("download_button")] == ["JSON", "CSV", "Parquet", "HTML"]

    def test_a_link_opens_its_run(self, open_page, bench):
        bench.lanes = (A, B)
        bench.keep(finished(id="first"))
        later = utc_now()
        bench.keep(finished(id="second", created_at=later))
        assert open_page().selectbox(key="bench_run").value == "second"
        assert open_page(bench_run="first").selectbox(key="bench_run").value == "first"

    def test_a_run_without_an_answer_shows_its_error(self, open_page, bench):
        bench.lanes = (A, B)
        error = ErrorInfo("gpu-full", "It does not fit", "Take less")
        record = a_record(a_plan(A), [], [])
        run = replace(record.run, state=RunState.FAILED, error=error, lanes=(LaneFacts(lane=A, error=error),))
        bench.keep(replace(record, run=run))
        app = open_page()
        assert [shown.value for shown in app.error] == ["It does not fit\n\nTake less\n\n`gpu-full`"]
        assert "No request finished" in texts(app)


def test_a_run_from_start_to_result(open_page, real):
    with scripted_server.running() as server:
        real.lanes = (remote("quick", server.url, chunks=5, interval_s=0.01),)
        app = open_page()
        app.segmented_control(key="bench_prompts").set_value(Prompts.EXAMPLES)
        app.segmented_control(key="bench_extent").set_value(Extent.REQUESTS).run()
        app.number_input(key="bench_requests").set_value(4).run()
        press_start(app)
        deadline = time.monotonic() + 60
        while not app.selectbox or "bench_run" not in [box.key for box in app.selectbox]:
            assert time.monotonic() < deadline, texts(app)
            time.sleep(0.3)
            app.run()
    assert ":green-badge[done]" in texts(app)
    assert "TTFT" in app.get("plotly_chart")[0].proto.spec
    (point, _) = real.records.result(real.records.record(app.selectbox(key="bench_run").value)).points
    assert (point.lane, point.requests.ok) == ("quick", 4)
