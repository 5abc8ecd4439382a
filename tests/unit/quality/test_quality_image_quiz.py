"""A quiz about images: its plan, its kept run, and its job with a scripted server as the lanes' engines."""

import json
import time
from contextlib import closing
from dataclasses import replace

import pytest

from core.codec import decode, encode
from core.domain.conversation import Role
from core.domain.specs import Dialect, Endpoint
from core.domain.turns import FinishReason, Mode
from core.engines.requests import StoppedRequests
from core.errors import InputError
from core.images.gallery import GalleryKind, gallery
from core.images.sanitise import sanitise
from core.images.store import ImageStore
from core.jobs.registry import JobFolder, JobRecord, Jobs, JobSpec, JobState
from core.quality.image_quiz import (
    JOB_KIND,
    MOST_QUESTIONS,
    UPLOAD_EXAMPLE,
    QuizPlan,
    Verdict,
    gallery_questions,
    images_of_jobs,
    load,
    one_question,
    run_file,
    scores,
    start_quiz,
    uploaded_questions,
    verdict,
)
from core.settings import Settings
from core.store.history import History
from tests import scripted_server
from tests.unit.quality.quiz_samples import IMAGE, lane, plan, png, question, record, run

OTHER = replace(IMAGE, sha256="cd" * 32)

END_S = 60


def test_each_question_is_a_turn_of_its_own_for_all_lanes():
    quiz = plan(question("1?", "a"), question("2?", "b"), system_prompt="Be brief.", mode=Mode.TOGETHER)
    turn = quiz.turn(1)
    assert (turn.prompt, turn.images, turn.mode) == ("2?", (IMAGE,), Mode.TOGETHER)
    assert [request.lane.name for request in turn.requests] == ["one", "two"]
    for request in turn.requests:
        assert [message.role for message in request.messages] == [Role.SYSTEM, Role.USER]
        assert request.messages[-1].images == (IMAGE,)
        assert request.messages[-1].content == "2?"


def test_a_plan_survives_json():
    quiz = plan(question("1?", "a"))
    assert decode(QuizPlan, encode(quiz)) == quiz


@pytest.mark.parametrize(
    ("number", "problem"), [(0, "There are no questions"), (MOST_QUESTIONS + 1, "Too many questions")]
)
def test_none_or_too_many_questions_are_refused(number, problem):
    with pytest.raises(InputError, match=problem):
        plan(*[question("1?")] * number)


def test_no_lane_or_an_empty_question_is_refused():
    with pytest.raises(InputError, match="No lane"):
        replace(plan(question("1?")), lanes=())
    with pytest.raises(InputError, match="empty"):
        plan(question("  "))


def test_a_lane_that_takes_no_images_is_refused_by_its_name():
    quiz = plan(question("1?"), lanes=(lane("one"), lane("blind", vision=False)))
    with pytest.raises(InputError, match="blind: ") as refused:
        quiz.check_sendable()
    assert refused.value.code == "text-only"


def test_a_quiz_is_read_again_when_its_lane_takes_no_images_any_more():
    quiz = plan(question("1?", "a"), lanes=(lane("blind", vision=False),))
    assert decode(QuizPlan, encode(quiz)) == quiz


def test_one_question_is_asked_of_every_image_with_the_same_answers():
    other = replace(IMAGE, sha256="cd" * 32)
    asked = one_question("How many?", [IMAGE, other], ["3", " three ", ""])
    assert [each.image for each in asked] == [IMAGE, other]
    assert {each.answers for each in asked} == {("3", "three")}


@pytest.fixture
def image_store(tmp_path):
    return ImageStore(tmp_path)


def lines(*entries):
    return "\n".join(json.dumps(entry) for entry in entries).encode()


@pytest.mark.parametrize("kind", list(GalleryKind))
def test_the_gallerys_set_goes_through_all_images_before_it_asks_again(image_store, kind):
    shown = [image for image in gallery() if image.kind is kind and image.questions]
    asked = gallery_questions(image_store, kind)
    assert len(asked) == sum(len(image.questions) for image in shown)
    names = [question.image.name for question in asked[: len(shown)]]
    assert names == [image.path.name for image in shown]
    assert all(question.answers for question in asked)
    for first in asked[:3]:
        assert image_store.read(first.image)


def test_an_uploaded_set_takes_its_images_by_name(image_store):
    files = {
        "set.jsonl": lines(
            {"image": "a.png", "question": "Which colour?", "answers": ["red"]},
            {"image": "b.png", "question": "And this?"},
            {"image": "a.png", "question": "Again?", "answers": ["red"]},
        ),
        "a.png": png("red"),
        "b.png": png("blue"),
    }
    first, second, third = uploaded_questions(image_store, files)
    assert (first.question, first.answers) == ("Which colour?", ("red",))
    assert second.answers == ()
    assert first.image == third.image != second.image
    assert image_store.read(second.image)


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"a.png": png()}, "0 JSONL files"),
        ({"a.jsonl": b"{}", "b.jsonl": b"{}"}, "2 JSONL files"),
        ({"a.jsonl": b"\n{not json"}, "a.jsonl, line 2: "),
        ({"a.jsonl": lines({"image": "x.png"})}, "a.jsonl, line 1: question"),
        ({"a.jsonl": lines({"image": "x.png", "question": "?"})}, 'image "x.png" is missing'),
        (
            {"a.jsonl": lines({"image": "x.png", "question": "?"}), "x.png": b"no image"},
            "x.png is not an image",
        ),
    ],
)
def test_what_is_wrong_with_an_uploaded_set_is_said(image_store, files, said):
    with pytest.raises(InputError) as refused:
        uploaded_questions(image_store, files)
    assert said in refused.value.message


def test_the_example_that_is_shown_is_one(image_store):
    files = {"set.jsonl": UPLOAD_EXAMPLE.encode(), "kitchen.jpg": png()}
    assert uploaded_questions(image_store, files)[0].answers == ("3",)


def test_right_wrong_and_no_answer_are_counted_apart():
    quiz = plan(question("1?", "red"), question("2?", "blue"), question("3?", "green"))
    one, two = quiz.lanes
    made = run(
        quiz,
        (record(one, "Red."), record(two, "red")),
        (record(one, "green"), record(two, "red")),
        (record(one, failed=True), record(two, "green")),
    )
    first, second = scores(made)
    assert (first.lane, first.right, first.wrong, first.no_answer) == ("one", 1, 1, 1)
    assert first.accuracy_ratio == 0.5
    assert (second.right, second.wrong, second.no_answer) == (2, 1, 0)


def test_latency_is_the_median_of_what_was_answered():
    quiz = plan(*(question(f"{place}?", "red") for place in range(4)))
    one, two = quiz.lanes
    answered = [
        (record(one, "red", ttft_ms=ms), record(two, failed=True, ttft_ms=ms)) for ms in (10, 40, 20, 90)
    ]
    first, second = scores(run(quiz, *answered))
    assert first.ttft_p50_s == pytest.approx(0.030)
    assert first.e2e_p50_s == pytest.approx(0.050)
    assert first.timed == 4
    assert (second.ttft_p50_s, second.e2e_p50_s, second.timed) == (None, None, 0)


def test_questions_without_expected_answers_are_not_graded():
    quiz = plan(question("What is this?"))
    made = run(quiz, tuple(record(lane, "a cat") for lane in quiz.lanes))
    score = scores(made)[0]
    assert not made.graded
    assert (score.right, score.wrong, score.not_graded) == (0, 0, 1)
    assert score.accuracy_ratio is None
    assert score.interval is None
    assert score.timed == 1


def test_a_stopped_answer_is_no_answer_and_a_cut_one_is_graded():
    asked = question("1?", "red")
    stopped = replace(record(plan(asked).lanes[0], "red"), finish_reason=FinishReason.CANCELLED)
    assert verdict(stopped, asked) is Verdict.NO_ANSWER
    assert verdict(replace(stopped, finish_reason=FinishReason.LENGTH), asked) is Verdict.RIGHT


@pytest.fixture
def settings_of_a_home(tmp_path):
    return Settings(home=tmp_path, lanes_file=tmp_path / "lanes.toml", database_url="")


def a_job(settings_of_a_home, kind, state, image):
    arguments = {"plan": encode(plan(question("What?", image=image))).decode()}
    spec = JobSpec(kind=kind, title="t", worker="w", python="p", arguments=arguments)
    folder = JobFolder(settings_of_a_home.home / "jobs" / spec.id)
    folder.create(spec)
    folder.write(JobRecord(state=state))


def test_every_quiz_needs_its_images(settings_of_a_home):
    assert images_of_jobs(settings_of_a_home) == frozenset()
    a_job(settings_of_a_home, JOB_KIND, JobState.DONE, IMAGE)
    a_job(settings_of_a_home, JOB_KIND, JobState.FAILED, OTHER)
    assert images_of_jobs(settings_of_a_home) == {IMAGE.sha256, OTHER.sha256}


def test_another_job_needs_them_until_it_ends(settings_of_a_home):
    a_job(settings_of_a_home, "bench", JobState.DONE, IMAGE)
    a_job(settings_of_a_home, "bench", JobState.QUEUED, OTHER)
    assert images_of_jobs(settings_of_a_home) == {OTHER.sha256}


@pytest.fixture
def settings(tmp_path):
    return Settings(home=tmp_path, lanes_file=tmp_path / "lanes.toml", database_url="sqlite://")


@pytest.fixture(scope="module")
def server():
    with scripted_server.running() as running:
        yield running


@pytest.fixture
def image(settings):
    return ImageStore(settings.images_dir).put(sanitise(png(), name="red.png"))


def saying(server, name, text, **scenario):
    return lane(name, server.url, json.dumps({"text": text, **scenario}))


def test_a_quiz_asks_every_lane_with_the_image_and_keeps_every_record(settings, server, image):
    before = len(server.seen)
    quiz = plan(
        question("Which colour?", "red", image=image),
        question("How many?", "1", image=image),
        lanes=(
            saying(server, "good", "One red square."),
            saying(server, "poor", "blue"),
            saying(server, "broken", "", status=500, error="out of order"),
        ),
    )
    status = Jobs(settings).wait(start_quiz(settings, quiz), END_S)
    assert status.state is JobState.DONE, status.record.error
    run = load(settings, quiz.id)
    with closing(History(f"sqlite:///{settings.home / 'lmdyno.db'}")) as history:
        (entry,) = history.entries()
    assert (entry.kind, entry.id, entry.state) == ("quiz", quiz.id, "done")
    assert entry.lanes == ("good", "poor", "broken")
    found = {score.lane: (score.right, score.wrong, score.no_answer) for score in scores(run)}
    assert found == {"good": (2, 0, 0), "poor": (0, 2, 0), "broken": (0, 0, 2)}
    assert scores(run)[0].ttft_p50_s > 0
    assert run.machine is not None
    asked = [seen.body["messages"] for seen in server.seen[before:]]
    assert len(asked) == 6
    for messages in asked:
        (message,) = messages
        url = next(part["image_url"]["url"] for part in message["content"] if part["type"] == "image_url")
        assert url == ImageStore(settings.images_dir).data_url(image)


def test_a_quiz_for_a_lane_that_takes_no_images_is_not_started(settings, image):
    with pytest.raises(InputError, match="blind: "):
        start_quiz(settings, plan(question("?", image=image), lanes=(lane("blind", vision=False),)))
    assert not Jobs(settings).statuses(JOB_KIND)


def test_a_stopped_quiz_keeps_what_was_answered(settings, server, image):
    lanes = (saying(server, "slow", "red " * 10, interval_s=0.05),)
    quiz = plan(*[question("Which colour?", "red", image=image)] * 40, lanes=lanes)
    started = start_quiz(settings, quiz)
    deadline = time.monotonic() + END_S
    while (run := load(settings, quiz.id)) is None and time.monotonic() < deadline:
        time.sleep(0.05)
    with pytest.raises(InputError, match="already"):
        start_quiz(settings, plan(question("?", image=image), lanes=lanes))
    Jobs(settings).cancel(started)
    status = Jobs(settings).wait(started, END_S)
    run = load(settings, quiz.id)
    assert status.state is JobState.CANCELLED
    assert 1 <= len(run.answers) < 40
    assert all(record.finish_reason == "stop" for answer in run.answers for record in answer.records)
    assert [s.state for s in Jobs(settings).statuses(JOB_KIND)] == [JobState.CANCELLED]


def test_the_wait_for_the_first_answer_is_not_told_as_the_start_of_engines(settings, server, image):
    lanes = (lane("silent", server.url, "hang"),)
    started = start_quiz(settings, plan(question("?", image=image), lanes=lanes))
    deadline = time.monotonic() + END_S
    while (stage := Jobs(settings).status(started).record.stage) != "Asking the first question":
        assert time.monotonic() < deadline, stage
        time.sleep(0.05)
    Jobs(settings).cancel(started)
    assert Jobs(settings).wait(started, END_S).state is JobState.CANCELLED


def test_a_request_that_was_stopped_before_is_known_to_the_quiz(settings, server, image):
    asked = saying(server, "one", "red")
    StoppedRequests(settings).note(Endpoint(url=server.url, model="m", dialect=Dialect.GENERIC))
    quiz = plan(question("Which colour?", "red", image=image), lanes=(asked,))
    Jobs(settings).wait(start_quiz(settings, quiz), END_S)
    ((record,),) = [answer.records for answer in load(settings, quiz.id).answers]
    assert any("stopped shortly before" in note for note in record.notes)


def test_a_stopped_quiz_notes_the_request_that_its_server_may_go_on_with(settings, server, image):
    slow = saying(server, "slow", "red " * 400, interval_s=0.05)
    started = start_quiz(settings, plan(question("Which colour?", "red", image=image), lanes=(slow,)))
    known = len(server.seen)
    deadline = time.monotonic() + END_S
    while len(server.seen) == known and time.monotonic() < deadline:
        time.sleep(0.02)
    Jobs(settings).cancel(started)
    Jobs(settings).wait(started, END_S)
    assert StoppedRequests(settings).since_s(server.url) is not None


def test_a_quiz_that_is_not_there_is_none_and_a_path_is_no_quiz(settings):
    assert load(settings, "0123abcd") is None
    with pytest.raises(InputError, match="no result"):
        run_file(settings, "../lmdyno")
