"""Answers and judgements, made by lanes of a scripted server."""

import json
from collections.abc import Iterator
from dataclasses import replace

import pytest

from core.domain.conversation import Sampling
from core.domain.sessions import Candidate, Judgement, Session, SessionItem, SessionState, Verdict, Vote
from core.domain.specs import Dialect, Endpoint, EndpointSpec, EngineKind, LaneSpec
from core.engines.requests import StoppedRequests
from core.errors import InputError
from core.jobs.registry import Jobs, JobState
from core.sessions.job import (
    ANSWERS_KIND,
    GIVE_UP_AFTER,
    job_of,
    make_answers,
    missing_answers,
    planned_answers,
    start_answers,
    start_judging,
    turn_for,
)
from core.sessions.results import JudgeTask, judge_results, judge_tasks, judge_turn, read_verdict
from core.sessions.telling import has_failed
from core.store.sessions import Sessions
from tests.unit.sessions.session_samples import answers, open_session, plan


@pytest.fixture
def store(settings) -> Iterator[Sessions]:
    store = Sessions(settings.database_url)
    yield store
    store.close()


def scripted(server, name: str, *scenarios: dict) -> LaneSpec:
    """A lane that answers with the scenarios in turn."""
    return LaneSpec(
        name=name,
        kind=EngineKind.ENDPOINT,
        endpoint=EndpointSpec(url=server.url, model=json.dumps([dict(scenario) for scenario in scenarios])),
    )


def draft(store: Sessions, *lanes: LaneSpec, prompts: int = 4, **changes) -> Session:
    return store.create(Session(plan=replace(plan(prompts=prompts, **changes), lanes=lanes)))


def make(settings, store, session) -> list[str]:
    stages: list[str] = []
    assert make_answers(settings, store, session, stages.append, lambda stage, _: stages.append(stage))
    return stages


def test_a_request_that_was_stopped_before_is_noted_with_the_answer(settings, server, store):
    lanes = [scripted(server, name, {"text": f"I am {name}."}) for name in ("one", "two")]
    session = draft(store, *lanes, prompts=1)
    StoppedRequests(settings).note(Endpoint(url=server.url, model="m", dialect=Dialect.GENERIC))
    make(settings, store, session)
    for answer in store.answers(session.id):
        assert any("stopped shortly before" in note for note in answer.record.notes)


def test_every_lane_answers_every_prompt_one_lane_after_another(settings, server, store):
    lanes = [scripted(server, name, {"text": f"I am {name}."}) for name in ("one", "two")]
    session = draft(store, *lanes)
    stages = make(settings, store, session)
    made = store.answers(session.id)
    assert len(made) == 8
    assert {(answer.lane, answer.record.text) for answer in made} == {(0, "I am one."), (1, "I am two.")}
    assert all(answer.record.ttft_s and answer.record.timing for answer in made)
    asked = [seen.body["model"] for seen in server.seen]
    assert asked == [lanes[0].endpoint.model] * 4 + [lanes[1].endpoint.model] * 4
    assert stages[-1] == "two: 8 of 8 answers"


def test_a_failing_lane_fails_alone_and_is_given_up(settings, server, store):
    good = scripted(server, "good", {"text": "Fine."})
    bad = scripted(server, "bad", {"error": "out of memory", "status": 500})
    session = draft(store, bad, good, prompts=6)
    make(settings, store, session)
    made = store.answers(session.id)
    assert [has_failed(answer.record) for answer in made if answer.lane == 0] == [True] * GIVE_UP_AFTER
    assert [answer.record.text for answer in made if answer.lane == 1] == ["Fine."] * 6


def test_resuming_makes_what_is_missing_or_failed(settings, server, store):
    flaky = scripted(
        server, "flaky", {"text": "First."}, {"error": "busy", "status": 503}, {"text": "Third."}
    )
    good = scripted(server, "good", {"text": "Fine."})
    session = draft(store, flaky, good, prompts=3)
    make(settings, store, session)
    assert missing_answers(session.plan, store.answers(session.id)) == ((1, 0, 0),)
    before = len(server.seen)
    make(settings, store, session)
    assert missing_answers(session.plan, store.answers(session.id)) == ()
    assert len(server.seen) == before + 1


def test_second_samples_get_another_seed():
    with_seed = plan(prompts=10, control_ratio=0.1, sampling=Sampling(temperature=0.7, seed=5))
    keys = planned_answers(with_seed)
    assert [key for key in keys if key[2]] == [(0, 0, 1), (5, 1, 1)]
    turns = [turn_for(Session(plan=with_seed), (0, 0, sample)) for sample in (0, 1)]
    assert [turn.sampling.seed for turn in turns] == [5, 6]


def test_the_job_makes_the_answers(settings, server, store):
    session = draft(store, *(scripted(server, name, {"text": name}) for name in ("one", "two")), prompts=2)
    job = start_answers(settings, session)
    status = Jobs(settings).wait(job, 60)
    assert (status.state, status.record.result) == (JobState.DONE, {"missing": 0})
    assert job_of(settings, session.id, ANSWERS_KIND).id == job
    assert job_of(settings, "another", ANSWERS_KIND) is None
    assert len(store.answers(session.id)) == 4
    assert store.session(session.id).machine is not None


def test_one_job_at_a_time_makes_the_answers_of_a_session(settings, server, store):
    session = draft(store, *(scripted(server, name, {"hang": True}) for name in ("one", "two")))
    job = start_answers(settings, session)
    with pytest.raises(InputError) as raised:
        start_answers(settings, session)
    assert raised.value.code == "already-running"
    Jobs(settings).cancel(job)
    assert Jobs(settings).wait(job, 60).state is JobState.CANCELLED
    assert store.answers(session.id) == ()


def test_a_judge_sees_each_pair_in_both_orders(settings, server, store):
    session = open_session(plan(prompts=3))
    session = store.create(session)
    store.save_answers(session.id, answers(session.plan))
    judge = scripted(server, "judge", {"text": "Because. [[A]]"}, {"text": "Hm. [[B]]"})
    job = start_judging(settings, session, judge, most_items=10)
    assert Jobs(settings).wait(job, 60).state is JobState.DONE
    found = store.judgements(session.id)
    assert [(each.item, each.turned) for each in found] == [
        (n, turned) for n in range(3) for turned in (False, True)
    ]
    assert {each.order for each in found} == {(0, 1)}
    (result,) = judge_results(session, found, [])
    assert (result.consistent.ratio, result.first_shown.ratio, result.judgements) == (1.0, 0.5, 6)
    assert judge_tasks(session, found, "judge", 10) == []


@pytest.mark.parametrize(
    ("text", "turned", "verdict", "order"),
    [
        ("A is better. [[A]]", False, Verdict.PREFERRED, (0, 1)),
        ("[[A]]", True, Verdict.PREFERRED, (1, 0)),
        ("[[b]]", False, Verdict.PREFERRED, (1, 0)),
        ("First [[A]], but no: [[TIE]]", False, Verdict.TIE, ()),
        ("[[C]]", False, Verdict.TIE, ()),
        ("[[ BAD ]]", True, Verdict.ALL_BAD, ()),
        ("A", False, None, ()),
        ("", False, None, ()),
    ],
)
def test_a_verdict_is_read_from_the_end_of_the_answer(text, turned, verdict, order):
    assert read_verdict(text, JudgeTask(0, turned)) == (verdict, order)


def test_the_judge_is_not_told_which_lane_answered():
    session = open_session(plan("alpha", "beta", prompts=1))
    turn = judge_turn(
        session, JudgeTask(0, turned=True), ["from alpha".upper(), "SECOND"], session.plan.lanes[0]
    )
    sent = turn.requests[0].messages[-1].content
    assert sent.index("SECOND") < sent.index("FROM ALPHA")
    assert "alpha" not in sent.replace("FROM ALPHA", "")


def judged(item: int, turned: bool, order: tuple[int, ...]) -> Judgement:
    verdict = Verdict.PREFERRED if order else Verdict.TIE
    return Judgement(judge="j", item=item, turned=turned, verdict=verdict, order=order)


def test_a_judge_is_compared_with_the_people_where_it_is_consistent():
    session = open_session(plan(prompts=4))
    given = [
        *(judged(0, turned, (0, 1)) for turned in (False, True)),
        *(judged(1, turned, (1, 0)) for turned in (False, True)),
        judged(2, False, (0, 1)),
        judged(2, True, (1, 0)),
        replace(judged(3, False, ()), verdict=None),
    ]
    people = [
        Vote(participant_id=f"p{person}", item=item, shown=(0, 1), verdict=Verdict.PREFERRED, order=(0, 1))
        for person in range(3)
        for item in range(3)
    ]
    (result,) = judge_results(session, given, people)
    assert (result.consistent.count, result.consistent.total) == (2, 3)
    assert (result.agreement.count, result.agreement.total) == (1, 2)
    assert (result.first_shown.count, result.first_shown.total) == (4, 6)
    assert result.unusable == 1


def test_controls_and_rankings_are_not_judged():
    session = open_session(plan(prompts=2))
    three = SessionItem(prompt=0, candidates=tuple(Candidate(lane) for lane in range(3)))
    changed = replace(session, items=(*session.items, three), state=SessionState.CLOSED)
    assert {task.item for task in judge_tasks(changed, (), "j", 100)} == {0, 1}
    assert len(judge_tasks(changed, (), "j", 1)) == 2
