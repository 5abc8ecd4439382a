"""Quizzes as jobs: their own process, a scripted server as the lanes' engines."""

import json
import time
from contextlib import closing
from dataclasses import replace

import pytest

from core.codec import encode
from core.domain.specs import Dialect, Endpoint
from core.engines.requests import StoppedRequests
from core.errors import InputError
from core.image_quiz.job import JOB_KIND, images_of_jobs, start_quiz
from core.image_quiz.quiz import load, run_file, scores
from core.images.sanitise import sanitise
from core.images.store import ImageStore
from core.jobs.registry import JobFolder, JobRecord, Jobs, JobSpec, JobState
from core.settings import Settings
from core.store.history import History
from tests import scripted_server
from tests.unit.image_quiz.quiz_samples import IMAGE, lane, plan, png, question

OTHER = replace(IMAGE, sha256="cd" * 32)

END_S = 60


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
