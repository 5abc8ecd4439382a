"""Quizzes and memory sweeps in the store and in the history."""

from contextlib import closing
from dataclasses import replace
from datetime import timedelta

import pytest

from core.domain.runs import HistoryFilter, RunKind, RunState
from core.domain.turns import utc_now
from core.quality.image_quiz import keep
from core.store.history import History
from core.store.run_tables import JobResult, JobResults
from tests.unit.quality import quiz_samples
from tests.unit.replay.recorded import H200, lane

SWEEP = JobResult(
    kind=RunKind.SWEEP,
    id="s1",
    created_at=utc_now(),
    state=RunState.DONE,
    title="Memory sweep of tiny, 2 points",
    lanes=(lane("awq"),),
    machine=H200,
    facts='{"points": []}',
)


@pytest.fixture
def results(settings):
    settings.home.mkdir(parents=True)
    with closing(JobResults(settings.database_url)) as results:
        yield results


@pytest.fixture
def history(settings):
    with closing(History(settings.database_url)) as history:
        yield history


def a_quiz():
    asked = quiz_samples.plan(quiz_samples.question("?", "yes"), quiz_samples.question("?", "no"))
    answers = tuple(quiz_samples.record(lane, "yes") for lane in asked.lanes)
    return quiz_samples.run(asked, answers)


def test_a_result_is_read_as_it_was_saved_under_its_kind(results):
    results.save(SWEEP)
    assert results.facts(RunKind.SWEEP, "s1") == SWEEP.facts
    assert results.facts(RunKind.QUIZ, "s1") is None
    results.save(replace(SWEEP, facts="{}"))
    assert results.facts(RunKind.SWEEP, "s1") == "{}"


def test_the_history_lists_sweeps_and_quizzes_with_their_lanes(results, history, settings):
    results.save(SWEEP)
    run = a_quiz()
    keep(settings, run)
    (sweep,) = history.entries(HistoryFilter(kind=RunKind.SWEEP))
    assert (sweep.id, sweep.title, sweep.lanes, sweep.host) == ("s1", SWEEP.title, ("awq",), H200.host)
    (quiz,) = history.entries(HistoryFilter(lane="two"))
    assert (quiz.kind, quiz.id, quiz.lanes) == (RunKind.QUIZ, run.plan.id, ("one", "two"))
    assert quiz.state == "stopped"
    assert len(history.entries()) == 2


def test_a_quiz_without_an_answer_leaves_nothing(results, history, settings):
    keep(settings, replace(a_quiz(), answers=()))
    assert history.entries() == ()


def test_a_removed_quiz_is_named_with_its_images(results, history, settings):
    run = a_quiz()
    keep(settings, run)
    history.delete(RunKind.QUIZ, [run.plan.id])
    assert history.entries() == ()
    purged = history.purge(utc_now() + timedelta(seconds=1))
    assert (purged.entries, purged.job_results) == (1, frozenset({run.plan.id}))
    assert purged.images == {quiz_samples.IMAGE.sha256}
    assert results.facts(RunKind.QUIZ, run.plan.id) is None
