"""The history page over a store that the tests fill."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import page_fakes
import pytest
import streamlit as st
from page_fakes import HF, REMOTE

from core.bench.memory_sweep import PointResult, SweepPlan, SweepPoint, SweepRun
from core.bench.plan import Workload
from core.bench.results.result import RunRecords, results
from core.codec import encode
from core.domain.conversation import Sampling
from core.domain.runs import HistoryFilter, RunKind, RunState
from core.domain.turns import RequestPlan, TurnPlan, utc_now
from core.errors import StoreError
from core.images.gallery import gallery
from core.images.sanitise import sanitise
from core.images.store import ImageStore
from core.jobs.registry import JobFolder, JobRecord, JobSpec, JobState
from core.quality.image_quiz import QuizPlan, one_question
from core.quality.image_quiz import load as load_quiz
from core.quality.image_quiz import save as save_quiz
from core.quality.results import results as quality_results
from core.reports.run_json import bench_to_json, quality_to_json
from core.settings import Settings
from core.store.history import History
from core.store.run_tables import JobResult, JobResults, Walks
from core.store.runs import BenchRuns, QualityRuns
from core.store.turns import Store
from core.ui.chat import quiz
from core.ui.history import list_page as history_list
from core.ui.shared import resources
from tests.unit.bench.bench_samples import MACHINE, a_pass, a_plan, a_record, a_request, a_timing
from tests.unit.quality import quality_samples, quiz_samples

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


class Home:
    """A store with what the tests put into it."""

    def __init__(self, url):
        self.store, self.runs, self.history = Store(url), BenchRuns(url), History(url)
        self.quality = QualityRuns(url)
        self.walks = Walks(url)
        self.results = JobResults(url)
        self.records = RunRecords(self.runs)

    def turn(self, hour=0, prompt="What is Ohm's law?", lanes=(HF, REMOTE), images=()):
        plan = TurnPlan(
            conversation_id="talk",
            prompt=prompt,
            images=images,
            requests=tuple(RequestPlan(lane=lane, messages=()) for lane in lanes),
            sampling=Sampling(),
            created_at=NOON + timedelta(hours=hour),
        )
        self.store.save_turn(plan, MACHINE)
        for request in self.store.turn(plan.id).requests:
            self.store.save_request(page_fakes.finished(request, f"Answer of {request.lane.name}."))
        return plan.id

    def run(self, hour=0, title="quick look", gap_s=0.01, **plan):
        record = self.record(hour, title, gap_s, **plan)
        self.runs.save(record.run, record.passes, record.requests)
        return record.run.id

    @staticmethod
    def record(hour=0, title="quick look", gap_s=0.01, **plan):
        plan = a_plan(HF, title=title, created_at=NOON + timedelta(hours=hour), **plan)
        requests = [a_request(place, "hf", timing=a_timing(gap_s=gap_s)) for place in range(4)]
        return a_record(plan, [a_pass(0, ("hf",))], requests)


@pytest.fixture
def home(world, monkeypatch, tmp_path):
    home = Home(f"sqlite:///{tmp_path / 'lmdyno.db'}")
    monkeypatch.setattr(resources, "store", lambda: home.store)
    monkeypatch.setattr(resources, "bench_runs", lambda: home.runs)
    monkeypatch.setattr(resources, "history", lambda: home.history)
    monkeypatch.setattr(resources, "quality_runs", lambda: home.quality)
    monkeypatch.setattr(resources, "walks", lambda: home.walks)
    monkeypatch.setattr(resources, "job_results", lambda: home.results)
    monkeypatch.setattr(resources, "run_records", lambda: home.records)
    st.cache_data.clear()
    yield home
    for access in (home.store, home.runs, home.quality, home.walks, home.results, home.history):
        access.close()


@pytest.fixture
def open_page(home, new_app):
    def open_at(**query):
        app = new_app(**query)
        app.switch_page("pages/history.py").run()
        assert not app.exception
        return app

    return open_at


def titles(app):
    return list(app.dataframe[0].value["title"]) if app.dataframe else []


def texts(app):
    kinds = (app.markdown, app.caption, app.error, app.info, app.warning, app.success)
    return "\n".join(element.value for kind in kinds for element in kind)


def button(app, label):
    return next(each for each in app.button if each.label == label)


def select(app, *places):
    """Select rows of the table, as a click on their boxes does."""
    app.session_state[app.dataframe[0].key] = {"selection": {"rows": list(places), "columns": []}}
    return app.run()


def addressed(app):
    """The address without what the widgets wrote into it."""
    return {name: app.query_params[name] for name in app.query_params if not name.startswith("history_")}


def test_an_empty_store_says_what_to_do(open_page):
    app = open_page()
    assert "There are no measurements yet" in texts(app)
    assert not app.dataframe


def test_turns_and_load_tests_are_one_table_with_their_figures(open_page, home):
    home.turn(1)
    home.run(2)
    app = open_page()
    table = app.dataframe[0].value
    assert list(table["title"]) == ["quick look", "What is Ohm's law?"]
    assert list(table["kind"]) == ["Benchmark", "Turn"]
    assert list(table["ttft"][1]) == ["50.0 ms", "50.0 ms"]
    # Not kept before: the page has made it, and drawn itself again.
    assert (list(table["ttft"][0]), list(table["decode"][0])) == (["100 ms"], ["100"])
    assert list(table["failed"]) == ["0 of 4", "0 of 2"]
    assert home.history.entries(HistoryFilter(kind=RunKind.BENCH))[0].summary.answered == 4


def test_a_run_that_can_t_be_summed_up_does_not_hold_up_the_list(open_page, home, monkeypatch):
    home.run()

    def broken(run_id):
        raise StoreError("Can't read a stored record")

    monkeypatch.setattr(home.runs, "record", broken)
    assert titles(open_page()) == ["quick look"]


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({"history_kind": "Turns"}, ["Tell a story", "What is Ohm's law?"]),
        ({"history_text": "OHM", "history_lane": "remote"}, ["What is Ohm's law?"]),
        ({"history_tag": "keep", "history_model": "tiny"}, ["night"]),
        (
            {"history_from": "2026-03-01", "history_to": "2026-03-01"},
            ["Tell a story", "quick look", "What is Ohm's law?"],
        ),
        ({"history_from": "2026-03-02"}, ["night"]),
        ({"history_text": "nothing like it"}, []),
    ],
)
def test_the_address_filters_the_list(open_page, home, query, expected):
    home.turn(1)
    home.run(2)
    home.turn(3, "Tell a story", (HF,))
    night = home.run(20, "night")
    home.history.set_tag(RunKind.BENCH, [night], "keep")
    app = open_page(**query)
    assert titles(app) == expected
    if not expected:
        assert "No entries match these filters" in texts(app)


def test_filters_can_be_cleared(open_page, home):
    home.turn()
    app = open_page(history_text="nothing like it", history_kind="Turns")
    button(app, "Clear filters").click().run()
    assert titles(app) == ["What is Ohm's law?"]


def test_the_list_has_pages(open_page, home, monkeypatch):
    monkeypatch.setattr(history_list, "PAGE_SIZE", 2)
    for hour in range(5):
        home.turn(hour, f"prompt {hour}")
    app = open_page()
    assert titles(app) == ["prompt 4", "prompt 3"]
    assert "1 to 2 of 5" in texts(app)
    app = open_page(history_page="3")
    assert titles(app) == ["prompt 0"]
    assert "5 to 5 of 5" in texts(app)
    app.text_input(key="history_text").set_value("prompt 4").run()
    assert titles(app) == ["prompt 4"]


def test_deleting_can_be_undone(open_page, home):
    home.turn(1)
    home.run(2)
    app = select(open_page(), 0, 1)
    button(app, "Delete").click().run()
    assert titles(app) == []
    assert "2 entries deleted" in texts(app)
    button(app, "Undo").click().run()
    assert len(titles(app)) == 2
    assert "2 entries restored" in texts(app)


def test_the_bin_gives_back_or_is_emptied(open_page, home):
    kept, gone = home.run(1, "kept"), home.run(2, "gone")
    home.history.delete(RunKind.BENCH, [kept, gone])
    app = open_page(history_bin="true")
    assert titles(app) == ["gone", "kept"]
    app = select(app, 1)
    button(app, "Restore").click().run()
    assert titles(app) == ["gone"]
    button(app, "Delete permanently").click().run()
    assert "1 entry permanently deleted" in texts(app)
    assert [entry.id for entry in home.history.find([kept, gone])] == [kept]


def test_what_was_deleted_long_ago_goes_for_good(open_page, home, monkeypatch):
    old, new = home.run(1), home.run(2)
    with monkeypatch.context() as patched:
        patched.setattr("core.store.history.utc_now", lambda: utc_now() - timedelta(days=31))
        home.history.delete(RunKind.BENCH, [old])
    home.history.delete(RunKind.BENCH, [new])
    open_page()
    assert [entry.id for entry in home.history.find([old, new])] == [new]


def test_images_go_for_good_with_what_named_them_but_for_those_that_a_quiz_asks_about(
    open_page, home, monkeypatch, tmp_path
):
    settings = Settings(home=tmp_path, lanes_file=tmp_path / "lanes.toml", database_url="")
    monkeypatch.setattr(resources, "resources", lambda: SimpleNamespace(settings=settings, gpu=False))
    monkeypatch.setattr(resources, "image_store", lambda: ImageStore(tmp_path / "images"))
    image_store, scenes = resources.image_store(), [each for each in gallery() if each.questions][:3]
    mine, asked, shown = (image_store.put(sanitise(each.path.read_bytes())) for each in scenes)
    plan = QuizPlan(
        title="set", lanes=(REMOTE,), questions=one_question("What is it?", [asked]), sampling=Sampling()
    )
    arguments = {"plan": encode(plan).decode()}
    spec = JobSpec(kind="image-quiz", title="set", worker="w", python="p", arguments=arguments)
    JobFolder(tmp_path / "jobs" / spec.id).create(spec)
    home.turn(1, images=(shown,))
    home.history.delete(RunKind.CHAT, [home.turn(2, images=(mine, asked, shown))])
    button(open_page(history_bin="true"), "Delete permanently").click().run()
    assert [image_store.thumbnail(each, 8) is not None for each in (mine, asked, shown)] == [
        False,
        True,
        True,
    ]


def test_what_still_runs_can_t_be_deleted(open_page, home):
    record = home.record()
    home.runs.save(replace(record.run, state=RunState.RUNNING))
    app = select(open_page(), 0)
    assert button(app, "Delete").disabled


def test_selected_rows_are_tagged_together(open_page, home):
    home.history.set_tag(RunKind.CHAT, [home.turn(0)], "demo")
    home.turn(1)
    home.run(2)
    app = select(open_page(), 0, 1)
    app.selectbox(key="history_bulk_tag").set_value("demo")
    button(app, "Tag 2 entries").click().run()
    assert [entry.tag for entry in home.history.entries()] == ["demo"] * 3
    assert list(app.dataframe[0].value["tag"]) == ["demo"] * 3


def test_only_load_tests_can_be_compared(open_page, home):
    home.turn(1)
    home.run(2)
    home.run(3)
    app = select(open_page(), 0, 1)
    assert not button(app, "Compare").disabled
    assert button(app, "Open").disabled
    assert button(select(app, 0, 2), "Compare").disabled
    assert button(select(app, 0), "Compare").disabled


def test_a_run_opens_at_its_own_address_and_the_list_comes_back(open_page, home):
    run_id = home.run()
    home.turn(1)
    app = open_page(history_kind="Benchmarks")
    app = select(app, 0)
    button(app, "Open").click().run()
    assert addressed(app) == {"run": run_id}
    assert not app.dataframe
    app.button(key="history_back").click().run()
    assert addressed(app) == {}
    assert titles(app) == ["quick look"]


def test_a_runs_page_shows_results_plan_and_environment(open_page, home):
    app = open_page(run=home.run(title="the title"))
    assert "the title" in texts(app)
    assert app.get("plotly_chart")
    expanders = {expander.label: expander for expander in app.expander}
    plan = expanders["Plan"].table[0].value
    assert "`workload.prompt_tokens`" in plan.index
    assert "`machine.host`" in expanders["Environment"].table[0].value.index


def test_note_and_tag_are_edited_on_the_runs_page(open_page, home):
    run_id = home.run()
    home.history.set_tag(RunKind.BENCH, [home.run(1)], "keep")
    app = open_page(run=run_id)
    app.text_area(key=f"history_note_{run_id}").set_value("Good *one*")
    app.selectbox(key=f"history_tag_{run_id}").set_value("keep")
    button(app, "Save").click().run()
    (entry,) = home.history.find([run_id])
    assert (entry.note, entry.tag) == ("Good *one*", "keep")
    assert "Good \\*one\\*" in texts(app)


def test_a_run_that_is_deleted_leads_to_the_list_and_its_link_offers_it_back(open_page, home):
    run_id = home.run()
    app = open_page(run=run_id)
    button(app, "Delete").click().run()
    assert addressed(app) == {}
    assert "1 entry deleted" in texts(app)
    app = open_page(run=run_id)
    assert "was deleted" in texts(app)
    button(app, "Restore").click().run()
    assert app.get("plotly_chart")


@pytest.mark.parametrize("query", [{"run": "nobody"}, {"turn": "nobody"}, {"compare": "nobody,nothing"}])
def test_an_unknown_id_is_a_message(open_page, home, query):
    app = open_page(**query)
    assert "not found" in texts(app)
    assert not app.error


def test_a_turns_page_shows_its_answers_as_the_chat_does(open_page, home):
    turn_id = home.turn()
    app = open_page(turn=turn_id)
    assert "Answer of hf." in texts(app)
    assert {metric.label.split(" ")[0] for metric in app.metric} == {"TTFT", "Decode", "E2E"}
    assert "Regenerate" not in [each.label for each in app.button]
    assert "lab" in texts(app)
    (link,) = app.get("page_link")
    assert "conversation=talk" in link.proto.query_string


def test_a_comparison_opens_by_its_address(open_page, home):
    first, second = home.run(1, "before"), home.run(2, "after", gap_s=0.02)
    app = open_page(compare=f"{first},{second}")
    assert "before" in texts(app)
    app.segmented_control(key="history_figure").set_value("tpot_s.mean").run()
    assert ":red[+100.0%\N{NO-BREAK SPACE}(" in texts(app)
    assert len(app.get("plotly_chart")) == 5
    app.segmented_control(key="history_baseline").set_value(second).run()
    assert addressed(app) == {"compare": f"{first},{second}", "baseline": second}
    assert ":green[-50.0%\N{NO-BREAK SPACE}(" in texts(app)
    again = open_page(compare=f"{first},{second}", baseline=second)
    assert again.segmented_control(key="history_baseline").value == second


def test_a_comparison_warns_of_what_differs_and_can_show_everything(open_page, home):
    other = Workload(prompt_tokens=64, output_tokens=11)
    app = open_page(compare=f"{home.run(1)},{home.run(2, workload=other)}")
    assert "prompt\\_tokens\\: A 32, B 64" in app.warning[0].value
    assert list(app.dataframe[0].value["setting"]) == ["workload.prompt_tokens"]
    app.toggle(key="history_all_settings").set_value(True).run()
    table = app.dataframe[0].value.set_index("setting")
    assert list(table.loc["workload.output_tokens"]) == [False, "11", "11"]


def test_a_comparison_goes_on_without_what_is_gone(open_page, home):
    first, second, third = home.run(1), home.run(2), home.run(3, "third")
    home.history.delete(RunKind.BENCH, [third])
    app = open_page(compare=f"{first},{second},{third},nobody")
    assert "Benchmark run `nobody` not found" in texts(app)
    assert "third was deleted" in texts(app)
    assert len(app.get("plotly_chart")) == 5
    button(app, "Restore").click().run()
    assert app.segmented_control(key="history_baseline").options == ["A", "B", "C"]


def upload(app, data):
    app.file_uploader[0].upload("run.json", data, "application/json").run()


def test_an_exported_run_is_imported_and_shown(open_page, home):
    record = home.record(title="from afar")
    record = replace(record, run=replace(record.run, note="Theirs", tag="keep"))
    app = open_page()
    upload(app, bench_to_json(results(record), record, raw=True))
    assert addressed(app) == {"run": record.run.id}
    assert "from afar" in texts(app)
    entry = home.history.entries()[0]
    assert (entry.note, entry.tag) == ("Theirs", "keep")
    app = open_page()
    upload(app, bench_to_json(results(record), record, raw=True))
    assert "already exists" in texts(app)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda found: b"{", "bad-record"),
        (lambda found: found | {"schema_version": 99}, "newer-schema"),
        (lambda found: found | {"raw": None}, "no-raw-facts"),
    ],
)
def test_a_file_that_can_t_be_imported_is_a_clear_message(open_page, home, change, message):
    record = home.record()
    changed = change(json.loads(bench_to_json(results(record), record, raw=True)))
    app = open_page()
    upload(app, changed if isinstance(changed, bytes) else json.dumps(changed).encode())
    assert message in app.error[0].value
    assert home.history.count() == 0


def test_a_store_that_can_t_be_read_is_a_message(open_page, home, monkeypatch):
    class Broken:
        def __getattr__(self, name):
            def fail(*args, **kwargs):
                raise StoreError("The store can't be opened", hint="Free some space.", code="store-full")

            return fail

    monkeypatch.setattr(resources, "history", Broken)
    app = open_page()
    assert "store-full" in app.error[0].value
    assert button(app, "Try again")


def test_an_action_that_fails_says_so_and_changes_nothing(open_page, home, monkeypatch):
    home.turn()
    app = select(open_page(), 0)

    def fail(*args):
        raise StoreError("The disk is full", code="store-full")

    monkeypatch.setattr(home.history, "delete", fail)
    button(app, "Delete").click().run()
    assert "The disk is full" in app.error[0].value
    assert len(titles(app)) == 1


def test_a_quality_run_is_listed_and_opened(home, open_page):
    home.quality.add(quality_samples.record())
    assert titles(open_page()) == ["W4A16 against 16 bits"]
    app = open_page(quality="q1")
    assert "awq is measurably worse than hf." in texts(app)
    assert [each.label for each in app.get("download_button")][:1] == ["HTML report"]


def kept(home, kind, run, lanes):
    result = JobResult(
        kind=kind,
        id=run.plan.id,
        created_at=NOON,
        state=RunState.DONE,
        title="My result",
        lanes=lanes,
        machine=MACHINE,
        facts=encode(run).decode(),
    )
    home.results.save(result)


def test_a_quiz_is_listed_opened_deleted_and_restored(home, open_page, monkeypatch):
    monkeypatch.setattr(quiz, "show_image", lambda image: None)
    asked = quiz_samples.plan(quiz_samples.question("Which colour?", "red"))
    run = quiz_samples.run(asked, tuple(quiz_samples.record(lane, "It is red") for lane in asked.lanes))
    kept(home, RunKind.QUIZ, run, asked.lanes)
    app = open_page()
    assert titles(app) == ["My result"]
    assert list(app.dataframe[0].value["kind"]) == ["Quiz"]
    app = open_page(quiz=asked.id)
    shown = texts(app)
    assert "My result" in app.subheader[0].value
    assert "Which colour?" in shown
    assert "It is red" in shown
    assert "Export JSON" in {each.label for each in app.get("download_button")}
    button(app, "Delete").click().run()
    assert titles(app) == []
    button(app, "Undo").click().run()
    assert titles(app) == ["My result"]


def test_a_memory_sweep_is_listed_and_opened(home, open_page):
    point = SweepPoint(ratio=0.4)
    plan = SweepPlan(model=page_fakes.MODEL, points=(point,))
    result = PointResult(point=point, measured_bytes=2**30, log_kv_tokens=1234)
    run = SweepRun(plan=plan, gpu_name="NVIDIA H200", gpu_total_bytes=2**37, points=(result,))
    kept(home, RunKind.SWEEP, run, (plan.lane(point),))
    assert list(open_page().dataframe[0].value["kind"]) == ["Memory sweep"]
    app = open_page(sweep=plan.id)
    assert "NVIDIA H200" in texts(app)
    assert "1,234" in texts(app)
    assert "Export JSON" in {each.label for each in app.get("download_button")}


@pytest.mark.parametrize("kind", ["quiz", "sweep"])
def test_a_result_that_is_not_here_says_so(open_page, kind):
    assert "not found" in open_page(**{kind: "0123abcd"}).warning[0].value


def test_a_quiz_that_is_removed_for_good_takes_its_job_and_file_along(home, open_page, monkeypatch, tmp_path):
    settings = Settings(home=tmp_path, lanes_file=tmp_path / "lanes.toml", database_url="sqlite://")
    removed = []
    pictures = SimpleNamespace(remove=lambda images, put_before: removed.extend(images) or len(images))
    monkeypatch.setattr(resources, "resources", lambda: SimpleNamespace(settings=settings))
    monkeypatch.setattr(resources, "image_store", lambda: pictures)
    asked = quiz_samples.plan(quiz_samples.question("Which colour?", "red"))
    run = quiz_samples.run(asked, tuple(quiz_samples.record(lane, "red") for lane in asked.lanes))
    kept(home, RunKind.QUIZ, run, asked.lanes)
    save_quiz(settings, run)
    folder = JobFolder(tmp_path / "jobs" / asked.id)
    folder.create(
        JobSpec(id=asked.id, kind="image-quiz", title="Quiz", worker="none", arguments={}, python="")
    )
    folder.write(JobRecord(state=JobState.DONE))
    home.history.delete(RunKind.QUIZ, [asked.id])
    app = open_page(history_bin="true")
    button(app, "Delete permanently").click().run()
    assert not app.exception
    assert not folder.path.exists()
    assert load_quiz(settings, asked.id) is None
    assert removed == [quiz_samples.IMAGE.sha256]


def test_quality_runs_are_compared_with_each_other(home, open_page):
    record = quality_samples.record()
    home.quality.add(record)
    home.quality.add(replace(record, run=replace(record.run, id="q2", title="Another", lmdyno="0.0.1")))
    app = open_page(compare="q1,q2")
    assert "The runs were made by different versions of LMDyno" in texts(app)
    table = app.table[0].value
    assert len(table) == 6
    assert list(table["Same answers"]) == ["–", "–", "3 of 3", "3 of 3", "1 of 3", "1 of 3"]


def test_an_exported_quality_run_is_imported(home, open_page):
    record = quality_samples.record(note="Kept")
    app = open_page()
    content = quality_to_json(quality_results(record), record, raw=True)
    upload(app, content)
    assert not app.exception
    assert home.quality.run("q1").note == "Kept"
    assert app.query_params["quality"] == "q1"


def test_a_quality_run_that_is_not_here_says_so(open_page):
    assert "Quality run `q9` not found" in texts(open_page(quality="q9"))
