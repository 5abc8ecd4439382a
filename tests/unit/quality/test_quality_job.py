"""Quality runs over toy models: each planted fault moves its own measure and no other; and runs as jobs."""

import asyncio
import math
import os
import signal
import time
from contextlib import ExitStack, closing
from dataclasses import replace

import pytest

from core.chat_api.client import open_session
from core.domain.runs import RunState
from core.domain.specs import Dialect
from core.engines.requests import StoppedRequests, Unfinished
from core.errors import EngineNotInstalled, InputError
from core.jobs.registry import Jobs, JobState
from core.quality import job
from core.quality.job import JOB_KIND, Runner, new_run, start_quality
from core.quality.plan import OWN_ANSWERS, QualityPlan, ShippedSet, shipped, text_file
from core.quality.results import Outcome, QualityResult, results
from core.quality.tasks import Grader, TaskItem
from core.quality.verdict import Level, verdicts
from core.store.runs import QualityRuns
from tests.unit.quality import quality_samples as samples
from tests.unit.quality.toy_server import ToyModel, lane, serving

BOOK = text_file("book.txt", ("The quick brown fox jumps over the lazy dog. " * 40).encode())
PROMPTS = ("What is a lane?", "你好", "Tell me more.")
TASKS = tuple(
    TaskItem(
        id=str(n), prompt=f"What is {n} + {n}?", grader=Grader.NUMBER, answers=(str(2 * n),), max_tokens=24
    )
    for n in range(10)
)

END_S = 60
QUESTIONS = ("One?", "Two?", "Three?")


def knows(prompt: str) -> str:
    if prompt.startswith("What is ") and "+" in prompt:
        return f"It is {2 * int(prompt.split()[2])}."
    return f"You said: {prompt}"


def one_wrong_in_ten(prompt: str) -> str:
    if prompt == TASKS[3].prompt:
        return "It is 1."
    return knows(prompt)


@pytest.fixture
def compare(settings):
    """Runs a plan over toy models by the lanes' names; the first is the reference."""

    def run(dialect: Dialect = Dialect.LMDEPLOY, *, stop: asyncio.Event | None = None, **models: ToyModel):
        with ExitStack() as stack:
            lanes = tuple(
                lane(name, stack.enter_context(serving(model)), dialect) for name, model in models.items()
            )
            plan = QualityPlan(
                lanes=lanes,
                reference=lanes[0].name,
                prompts=PROMPTS,
                tasks=TASKS,
                texts=(OWN_ANSWERS, BOOK),
                text_tokens=512,
                window_tokens=64,
            )
            store = stack.enter_context(closing(QualityRuns(settings.database_url)))
            asyncio.run(conduct(plan, store, stop or asyncio.Event()))
            return results(store.record(plan.id))

    async def conduct(plan: QualityPlan, store: QualityRuns, stop: asyncio.Event) -> None:
        async with open_session() as session:
            runner = Runner(
                settings,
                plan,
                new_run(plan, None),
                session=session,
                usage=None,
                save=store.save,
                report=lambda *_: None,
                stop=stop,
            )
            await runner.conduct()

    return run


def other(result: QualityResult):
    return next(found for found in result.lanes if found.name == "other")


def level(result: QualityResult) -> Level:
    return next(verdict.level for verdict in verdicts(result) if verdict.lane == "other")


def test_equal_models_show_no_difference_by_any_measure(compare):
    result = compare(reference=ToyModel(answer=knows), other=ToyModel(answer=knows))
    found = other(result)
    assert result.run.state is RunState.DONE
    assert found.tasks.outcomes[Outcome.RIGHT] == found.tasks.asked == len(TASKS)
    assert found.agreement.identical == found.agreement.n == len(PROMPTS)
    assert result.noise.identical == len(PROMPTS)
    for text in found.texts:
        assert text.difference.value == pytest.approx(0, abs=1e-9)
    assert (found.same_tokenizer, found.same_template) == (True, True)
    assert level(result) is Level.SAME


def test_every_question_waits_for_stopped_requests(compare, monkeypatch):
    looked_at = []

    def before(self, endpoint):
        looked_at.append(endpoint.url)
        return Unfinished()

    monkeypatch.setattr(StoppedRequests, "before", before)
    compare(reference=ToyModel(answer=knows), other=ToyModel(answer=knows))
    assert len(looked_at) == 2 * (len(PROMPTS) + len(TASKS)) + len(PROMPTS)
    assert len(set(looked_at)) == 2


def test_likelihoods_are_those_of_the_scored_tokens(compare):
    model = ToyModel(answer=knows)
    result = compare(reference=model, other=ToyModel(answer=knows))
    own = result.reference.text(OWN_ANSWERS.name)
    answers = [knows(prompt) for prompt in PROMPTS]
    expected = [model.nats(token) for answer in answers for token in model.ids(answer[:48])]
    assert own.tokens == len(expected)
    assert own.nats_per_token == pytest.approx(sum(expected) / len(expected))
    assert own.perplexity == pytest.approx(math.exp(sum(expected) / len(expected)))
    docs = result.reference.text(BOOK.name)
    assert docs.tokens == 512 - 8  # eight stretches, the first token of each is given


def test_a_scaled_weight_moves_the_likelihood_alone(compare):
    result = compare(reference=ToyModel(answer=knows), other=ToyModel(answer=knows, nats_scale=1.05))
    found = other(result)
    for text in found.texts:
        assert text.difference.value == pytest.approx(0.05 * result.reference.text(text.text).nats_per_token)
        assert text.difference.is_clear
    assert found.tasks.difference.p_value == 1
    assert found.agreement.identical == len(PROMPTS)
    assert level(result) is Level.WORSE


def test_one_wrong_answer_in_ten_moves_the_tasks_alone(compare):
    result = compare(reference=ToyModel(answer=knows), other=ToyModel(answer=one_wrong_in_ten))
    found = other(result)
    assert found.tasks.outcomes[Outcome.WRONG] == 1
    assert (found.tasks.difference.only_reference, found.tasks.difference.only_lane) == (1, 0)
    assert found.tasks.difference.difference_ratio == pytest.approx(-0.1)
    assert found.agreement.identical == len(PROMPTS)
    assert all(text.difference.value == pytest.approx(0, abs=1e-9) for text in found.texts)


def test_another_template_is_flagged_and_compared_with_nothing(compare):
    result = compare(
        reference=ToyModel(answer=knows), other=ToyModel(answer=knows, template="<system>Hi<user>{}<bot>")
    )
    found = other(result)
    assert found.same_template is False
    assert found.agreement.n == 0
    assert found.agreement.differing_prompts == len(PROMPTS)
    assert found.tasks.differing_prompts == len(TASKS)
    assert found.tasks.difference is None
    assert found.tasks.outcomes[Outcome.RIGHT] == len(TASKS)
    assert all(text.difference.value == pytest.approx(0, abs=1e-9) for text in found.texts)


def test_another_tokenizer_has_no_comparable_likelihood(compare):
    result = compare(reference=ToyModel(answer=knows), other=ToyModel(answer=knows, id_shift=1))
    found = other(result)
    assert found.same_tokenizer is False
    assert {text.error.code for text in found.texts} == {"tokenizer-differs"}
    assert found.tasks.outcomes[Outcome.RIGHT] == len(TASKS)


def test_an_answer_that_parts_moves_the_agreement_alone(compare):
    def parts(prompt: str) -> str:
        return knows(prompt).replace("Tell", "Sell") if prompt == PROMPTS[2] else knows(prompt)

    result = compare(reference=ToyModel(answer=knows), other=ToyModel(answer=parts))
    found = other(result)
    assert (found.agreement.identical, found.agreement.n) == (2, 3)
    assert found.agreement.parts_at_p50 == len("You said: ")
    assert found.tasks.difference.p_value == 1
    assert all(text.difference.value == pytest.approx(0, abs=1e-9) for text in found.texts)


def test_servers_like_vllm_tell_likelihoods_as_prompt_logprobs(compare):
    result = compare(
        Dialect.GENERIC,
        reference=ToyModel(answer=knows),
        other=ToyModel(answer=knows, nats_scale=1.1),
    )
    docs = other(result).text(BOOK.name)
    assert docs.method == "prompt-logprobs"
    assert docs.difference.value == pytest.approx(0.1 * result.reference.text(docs.text).nats_per_token)


def test_a_server_that_tells_nothing_is_unknown_with_the_reason(compare):
    result = compare(
        Dialect.GENERIC,
        reference=ToyModel(answer=knows, endpoints=frozenset()),
        other=ToyModel(answer=knows, endpoints=frozenset()),
    )
    assert {text.error.code for text in other(result).texts} == {"no-such-endpoint"}
    assert other(result).agreement.n == 0
    assert other(result).tasks.outcomes[Outcome.RIGHT] == len(TASKS)


def test_a_broken_lane_is_its_own_result(compare):
    result = compare(reference=ToyModel(answer=knows), other=ToyModel(status=500))
    found = other(result)
    assert result.run.state is RunState.DONE
    assert found.tasks.outcomes[Outcome.FAILED] == len(TASKS)
    assert found.tasks.accuracy_ratio is None
    assert result.reference.tasks.outcomes[Outcome.RIGHT] == len(TASKS)


def test_without_its_reference_a_lane_has_its_own_figures_and_the_reason(compare):
    result = compare(
        reference=ToyModel(answer=knows, status=500, endpoints=frozenset()), other=ToyModel(answer=knows)
    )
    found = other(result)
    assert found.tasks.outcomes[Outcome.RIGHT] == len(TASKS)
    assert found.tasks.difference is None
    assert {text.error.code for text in found.texts} == {"no-such-endpoint"}


def test_a_stopped_run_keeps_what_was_answered(compare):
    stop = asyncio.Event()
    asked = 0

    def stopping(prompt: str) -> str:
        nonlocal asked
        asked += 1
        if asked == 5:
            loop[0].call_soon_threadsafe(stop.set)
        return knows(prompt)

    loop: list[asyncio.AbstractEventLoop] = []
    original = Runner.conduct

    async def conduct(runner: Runner):
        loop.append(asyncio.get_running_loop())
        return await original(runner)

    Runner.conduct = conduct
    try:
        result = compare(stop=stop, reference=ToyModel(answer=stopping), other=ToyModel(answer=knows))
    finally:
        Runner.conduct = original
    assert result.run.state is RunState.STOPPED
    assert 3 <= result.reference.timed < len(PROMPTS) + len(TASKS)
    assert other(result).timed == 0


def test_cut_off_and_unanswered_tasks_are_counted_apart(compare):
    answers = iter(["It is " + "very " * 20, "I do not know", ""])
    told = {task.prompt: next(answers) for task in TASKS[:3]}
    result = compare(
        reference=ToyModel(answer=knows), other=ToyModel(answer=lambda p: told.get(p) or knows(p))
    )
    outcomes = other(result).tasks.outcomes
    assert (outcomes[Outcome.CUT_OFF], outcomes[Outcome.UNANSWERED]) == (1, 1)
    assert outcomes[Outcome.RIGHT] == len(TASKS) - 2


def test_the_shipped_sets_can_be_planned_with_every_lane():
    items = tuple(item for name in ShippedSet for item in shipped(name))
    plan = QualityPlan(lanes=(lane("one", "http://host/v1"),), reference="one", tasks=items)
    assert replace(plan, repeat_reference=False).answers == len(items)


@pytest.fixture
def home(settings, monkeypatch):
    """The job's process finds the same home and store by its environment."""
    monkeypatch.setenv("LMDYNO_DATABASE_URL", settings.database_url)
    return settings


def plan(url: str, **changes) -> QualityPlan:
    fields = {"lanes": (lane("one", url), lane("two", url)), "reference": "one", "prompts": QUESTIONS}
    return QualityPlan(**{**fields, "texts": (OWN_ANSWERS,), **changes})


def test_a_run_goes_on_in_a_process_of_its_own_and_is_stored(home):
    with serving(ToyModel()) as url:
        asked = plan(url)
        status = Jobs(home).wait(start_quality(home, asked), END_S)
    assert status.state is JobState.DONE, status.record.error
    assert status.record.result == {"run_id": asked.id, "state": "done"}
    with closing(QualityRuns(home.database_url)) as runs:
        result = results(runs.record(asked.id))
    assert result.run.machine is not None
    assert result.lanes[1].agreement.identical == len(QUESTIONS)
    assert result.lanes[1].text(OWN_ANSWERS.name).difference.value == pytest.approx(0)
    assert result.lanes[1].ttft_p50_s > 0


def test_a_stopped_run_keeps_what_was_answered_and_no_second_one_starts_beside_it(home):
    def slowly(prompt: str) -> str:
        time.sleep(0.05)
        return prompt

    with serving(ToyModel(answer=slowly)) as url, closing(QualityRuns(home.database_url)) as runs:
        asked = plan(url, prompts=QUESTIONS * 100, texts=())
        started = start_quality(home, asked)
        deadline = time.monotonic() + END_S
        while not (runs.run(asked.id) and runs.record(asked.id).answers) and time.monotonic() < deadline:
            time.sleep(0.05)
        with pytest.raises(InputError, match="already"):
            start_quality(home, plan(url))
        Jobs(home).cancel(started)
        assert Jobs(home).wait(started, END_S).state is JobState.CANCELLED
        record = runs.record(asked.id)
    assert record.run.state is RunState.STOPPED
    assert 1 <= len(record.answers) < 700


def test_a_run_whose_worker_was_killed_says_so(home):
    def slowly(prompt: str) -> str:
        time.sleep(0.05)
        return prompt

    with serving(ToyModel(answer=slowly)) as url, closing(QualityRuns(home.database_url)) as runs:
        asked = plan(url, prompts=QUESTIONS * 100, texts=())
        started = start_quality(home, asked)
        deadline = time.monotonic() + END_S
        while not (runs.run(asked.id) and runs.record(asked.id).answers) and time.monotonic() < deadline:
            time.sleep(0.05)
        os.kill(Jobs(home).status(started).record.worker.pid, signal.SIGKILL)
        assert Jobs(home).wait(started, END_S).state is JobState.FAILED
        record = runs.record(asked.id)
    assert (record.run.state, record.run.error.code) == (RunState.FAILED, "job-killed")
    assert record.answers


def test_tasks_of_a_program_that_is_missing_are_refused_before_the_start(home, monkeypatch):
    def missing() -> None:
        raise EngineNotInstalled("lm-evaluation-harness isn't installed")

    monkeypatch.setattr(job, "require_installed", missing)
    with pytest.raises(EngineNotInstalled):
        start_quality(home, samples.plan(external_tasks=("gsm8k",)))
    assert not Jobs(home).statuses(JOB_KIND)
