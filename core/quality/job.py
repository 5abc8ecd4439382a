"""A quality run: step by step, as a whole in this process, and as a background job.

A run goes lane by lane: answers, token ids, likelihoods. One lane's failure is that lane's result. An
engine that runs already stays as it is; one that was started for the run ends before the next lane begins,
and before the lane's weights are loaded for forward passes, so that the largest model needs no more memory
than alone.

`conduct` takes a plan to its record in the store and belongs into a process that does nothing else: a job or
the command line. SIGTERM and SIGINT stop the run with what it has. A run and its job have the same id.
`python -m core.quality.job FOLDER FD` is the worker, started by `core.jobs`. Stopping the job keeps what was
found out by then: the run is in the store, whatever becomes of the job.
"""

import asyncio
import logging
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from core import __version__, process_setup
from core.chat_api.client import Session, Timeouts, open_session
from core.chat_api.servers import place_of, with_model
from core.cluster.control import Engines
from core.codec import decode, encode
from core.domain.runs import (
    ProgressCallback,
    Prompted,
    QualityAnswer,
    QualityLane,
    QualityRun,
    RunState,
    TextScore,
    TokenizerFacts,
    job_result,
)
from core.domain.specs import Dialect, Endpoint, EngineKind, LaneSpec
from core.domain.turns import ErrorInfo, Machine, RequestRecord, utc_now
from core.engines.requests import StoppedRequests
from core.errors import EngineError, LMDynoError
from core.i18n import N_, Text
from core.jobs.registry import Jobs
from core.jobs.worker import Report, run
from core.memory.model_sizes import lane_weight_bytes
from core.meter.devices import DeviceQueue, SampledUsage, UsageMeter
from core.models.awq.options import python_docs
from core.quality import asking
from core.quality.asking import Asked, Asker, answer_of, requests_of, require_installed, was_stopped
from core.quality.plan import QualityPlan, TextKind, windows
from core.quality.scoring import (
    OwnTokenizer,
    Scored,
    ServedTokenizer,
    TextIds,
    TokenSource,
    by_forward_pass,
    is_served,
    other_tokenizer,
    over_http,
    unknown,
)
from core.settings import Settings, load_settings
from core.store.runs import QualityRuns
from core.telemetry.nvml import describe_machine

JOB_KIND = "quality"
_SIGN_OF_LIFE_S = 20.0
"""A run that is not saved for a minute counts as interrupted; loading large weights takes longer."""
_SCORING_SHARE = 0.25
"""Of a lane's part of the progress, when it is asked and scored."""

log = logging.getLogger(__name__)

Save = Callable[[QualityRun, Sequence[QualityAnswer]], None]


def start_quality(settings: Settings, plan: QualityPlan) -> str:
    """Start the run in a process of its own and return its id.

    Raises InputError while another one runs, and EngineNotInstalled for tasks of a missing program.
    """
    if plan.external_tasks:
        require_installed()
    return Jobs(settings).start_module(
        JOB_KIND,
        "core.quality.job",
        {"plan": encode(plan).decode()},
        title=plan.label,
        job_id=plan.id,
        already_running=N_("A comparison is already running."),
        has_run=True,
    )


def work(arguments: Mapping[str, Any], report: Report) -> Mapping[str, Any]:
    process_setup.configure_logs()
    done = conduct(load_settings(), decode(QualityPlan, arguments["plan"]), report)
    return job_result(done, stopped=N_("The comparison was stopped."))


def conduct(settings: Settings, plan: QualityPlan, report: ProgressCallback) -> QualityRun:
    """Run a plan to its end and return its run, in its final state and stored. Main thread only.

    Raises LMDynoError if it can't be run at all, and StoreError if it can't be stored.
    """
    with closing(QualityRuns(settings.database_url)) as store:
        run = new_run(plan, describe_machine())
        store.save(run)
        return asyncio.run(_run(settings, plan, run, store, report))


async def _run(
    settings: Settings, plan: QualityPlan, run: QualityRun, store: QualityRuns, report: ProgressCallback
) -> QualityRun:
    stop = process_setup.stop_on_signals()
    usage = SampledUsage(settings) if any(lane.is_local for lane in plan.lanes) else None
    if usage is not None:
        usage.start()
    try:
        async with open_session() as session:
            runner = Runner(
                settings, plan, run, session=session, usage=usage, save=store.save, report=report, stop=stop
            )
            signs = asyncio.create_task(_show_life(runner, store))
            try:
                return await runner.conduct()
            finally:
                signs.cancel()
                with suppress(asyncio.CancelledError):
                    await signs
    finally:
        if usage is not None:
            usage.close()


def new_run(plan: QualityPlan, machine: Machine | None) -> QualityRun:
    """The run of a plan before anything has happened."""
    return QualityRun(
        id=plan.id,
        created_at=utc_now(),
        state=RunState.RUNNING,
        title=plan.label,
        plan=encode(plan).decode(),
        lmdyno=__version__,
        machine=machine,
        lanes=tuple(QualityLane(lane=lane) for lane in plan.lanes),
    )


class Runner:
    """One run. Belongs to one event loop."""

    def __init__(
        self,
        settings: Settings,
        plan: QualityPlan,
        run: QualityRun,
        *,
        session: Session,
        usage: UsageMeter | None,
        save: Save,
        report: ProgressCallback,
        stop: asyncio.Event,
    ) -> None:
        self._settings = settings
        self._plan = plan
        self._run = run
        self._session = session
        self._save = save
        self._report = report
        self._stop = stop
        self._devices = DeviceQueue(settings.locks_dir)
        self._asker = Asker(
            settings=settings,
            devices=self._devices,
            usage=usage,
            stopped=StoppedRequests(settings),
            stop=stop,
        )
        self._facts = {facts.lane.name: facts for facts in run.lanes}
        self._answers: dict[tuple[str, Prompted, int, int], QualityAnswer] = {}
        self._sources: dict[tuple[str, ...], TokenSource] = {}
        self._reference_tokens: TokenSource | None = None
        self._no_texts: LMDynoError | None = None
        self._texts: tuple[TextIds, ...] = ()
        self._lane_number = 0

    @property
    def run(self) -> QualityRun:
        """The run as it stands."""
        return self._run

    async def conduct(self) -> QualityRun:
        """Run the plan to its end, or until it is stopped; returns the run in its final state."""
        work = asyncio.create_task(self._work())
        stopping = asyncio.create_task(self._stop.wait())
        try:
            await asyncio.wait((work, stopping), return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                work.cancel()
                await asyncio.wait((work,))
            if self._stop.is_set():
                return self._finish(RunState.STOPPED)
            work.result()
        except BaseException as error:
            known = error if isinstance(error, LMDynoError) else _internal_error()
            self._finish(RunState.FAILED, ErrorInfo.of(known))
            raise
        finally:
            stopping.cancel()
            work.cancel()
            for source in self._sources.values():
                await source.close()
        errors = [facts.error for facts in self._facts.values()]
        if all(errors):
            return self._finish(RunState.FAILED, errors[0])
        return self._finish(RunState.DONE)

    async def _work(self) -> None:
        with tempfile.TemporaryDirectory(prefix="lmdyno-quality-") as folder:
            likely = Path(folder, "reference.npz")
            for number, lane in enumerate(self._plan.ordered_lanes):
                self._lane_number = number
                try:
                    await self._lane(lane, likely)
                except LMDynoError as error:
                    log.warning("lane left out lane=%s code=%s", lane.name, error.code)
                    self._change(lane, error=ErrorInfo.of(error))
                    if lane.name == self._plan.reference and not self._texts:
                        self._no_texts = error

    async def _lane(self, lane: LaneSpec, likely: Path) -> None:
        with closing(Engines(self._settings, (lane,))) as engines:
            endpoint = await engines.ready(lane, lambda stage: self._report(stage, None))
            endpoint = await with_model(self._session, endpoint, Timeouts())
            self._change(
                lane,
                engine_version=endpoint.version,
                device=endpoint.device,
                served_model=endpoint.model,
                place=await place_of(endpoint),
                weight_bytes=await asyncio.to_thread(lane_weight_bytes, lane),
            )
            await self._ask(lane)
            await self._identify(lane, endpoint)
            scores = await self._score_over_http(lane, endpoint)
            await self._evaluate(lane, endpoint)
        scores += await self._score_here(lane, endpoint, likely, scores)
        self._change(lane, scores=scores)

    # Answers

    async def _ask(self, lane: LaneSpec) -> None:
        asked = list(requests_of(self._plan, lane))
        records: list[RequestRecord] = []
        for number, request in enumerate(asked):
            self._tell(
                N_("{lane}: {n} of {all} answers", lane=lane.name, n=number, all=len(asked)),
                (1 - _SCORING_SHARE) * number / len(asked),
            )
            record = await self._asker.ask(self._plan, lane, request)
            if was_stopped(record):
                raise asyncio.CancelledError
            records.append(record)
            self._keep(request, answer_of(request, record))
        self._change(lane, **_usage(records))

    def _keep(self, request: Asked, answer: QualityAnswer) -> None:
        self._answers[answer.lane, request.part, request.item, request.repeat] = answer
        self._save(self._run, (answer,))

    # Token ids

    async def _identify(self, lane: LaneSpec, endpoint: Endpoint) -> None:
        """Learn the lane's tokenizer; of the reference also the ids of all texts."""
        source = self._source(lane, endpoint)
        is_reference = lane.name == self._plan.reference
        self._tell(N_("{lane}: reading the tokenizer", lane=lane.name), 1 - _SCORING_SHARE)
        try:
            if is_reference:
                self._reference_tokens = source
                self._texts = await self._text_ids(lane, source)
            facts = (await source.read(())).facts
        except LMDynoError as error:
            log.warning("no token ids lane=%s code=%s", lane.name, error.code)
            facts = TokenizerFacts()
            if is_reference:
                self._reference_tokens, self._no_texts = None, error
        if source is not self._reference_tokens:
            await source.close()
        self._change(lane, tokenizer=facts)
        if self._reference_tokens is not None:
            await self._tokenise_answers(lane, self._reference_tokens)

    def _source(self, lane: LaneSpec, endpoint: Endpoint) -> TokenSource:
        if not lane.is_local:
            key: tuple[str, ...] = (endpoint.url, endpoint.model)
            return self._sources.setdefault(key, ServedTokenizer(self._session, endpoint))
        assert lane.model is not None
        key = (lane.settings.python or "", lane.model.path(lane.weights) or "")
        if key not in self._sources:
            self._sources[key] = OwnTokenizer(lane)
        return self._sources[key]

    async def _text_ids(self, lane: LaneSpec, source: TokenSource) -> tuple[TextIds, ...]:
        read_texts = []
        for text in self._plan.texts:
            if text.kind is TextKind.OWN_ANSWERS:
                sequences = await self._own_answers(lane, source)
            else:
                content = text.content
                if text.kind is TextKind.PYTHON_DOCS:
                    content = "\n\n".join(str(document) for document in python_docs().documents)
                (ids,) = (await source.read((content,))).texts
                stretches = windows(ids, self._plan.window_tokens, self._plan.text_tokens)
                sequences = tuple(Scored(stretch) for stretch in stretches)
            read_texts.append(TextIds(name=text.name, sequences=sequences))
        return tuple(read_texts)

    async def _own_answers(self, lane: LaneSpec, source: TokenSource) -> tuple[Scored, ...]:
        """Each of the reference's answers after its prompt, as the chat template puts it."""
        places = [place for place, answer in enumerate(self._prompt_answers(lane)) if answer and answer.text]
        answers = [self._answers[lane.name, Prompted.PROMPT, place, 0].text for place in places]
        ids = await source.read(answers, [self._plan.prompts[place] for place in places])
        sequences, left = [], self._plan.text_tokens
        for prompt, answer in zip(ids.prompts, ids.texts, strict=True):
            if prompt and 0 < len(answer) <= left:
                sequences.append(Scored((*prompt, *answer), context_tokens=len(prompt)))
                left -= len(answer)
        return tuple(sequences)

    def _prompt_answers(self, lane: LaneSpec) -> list[QualityAnswer | None]:
        return [
            self._answers.get((lane.name, Prompted.PROMPT, place, 0))
            for place in range(len(self._plan.prompts))
        ]

    async def _tokenise_answers(self, lane: LaneSpec, source: TokenSource) -> None:
        keys = [key for key in self._answers if key[0] == lane.name and key[1] is Prompted.PROMPT]
        ids = await source.read([self._answers[key].text for key in keys])
        for key, tokens in zip(keys, ids.texts, strict=True):
            self._answers[key] = replace(self._answers[key], token_ids=tokens)
        self._save(self._run, [self._answers[key] for key in keys])

    async def _evaluate(self, lane: LaneSpec, endpoint: Endpoint) -> None:
        """Run the tasks of other programs; a failure is stored beside the lane's results."""
        tasks = self._plan.external_tasks
        if not tasks:
            return
        self._tell(
            N_("{lane}: running {program}", lane=lane.name, program=asking.PROGRAM), 1 - _SCORING_SHARE
        )
        try:
            results = await asking.evaluate(endpoint, tasks, self._plan.external_limit)
        except LMDynoError as error:
            self._change(lane, external_error=ErrorInfo.of(error))
        else:
            self._change(lane, external=results)

    # Likelihood

    async def _score_over_http(self, lane: LaneSpec, endpoint: Endpoint) -> tuple[TextScore, ...]:
        if not is_served(lane, endpoint) or not self._texts:
            return ()
        if error := self._not_scorable(lane):
            return unknown(self._texts, error)
        return await over_http(
            self._session, endpoint, self._texts, self._scoring_progress(lane, over_http_share=True)
        )

    async def _score_here(
        self, lane: LaneSpec, endpoint: Endpoint, likely: Path, known: tuple[TextScore, ...]
    ) -> tuple[TextScore, ...]:
        if not self._texts:
            return self._no_scores()
        has_any = any(score.error is None for score in known)
        if not lane.is_local:
            return () if known else unknown(self._texts, _not_offered(endpoint.dialect))
        if lane.kind is not EngineKind.TRANSFORMERS and has_any and not self._plan.logits:
            return ()
        if error := self._not_scorable(lane):
            return () if known else unknown(self._texts, error)
        is_reference = lane.name == self._plan.reference
        try:
            return await self._on_devices(lane, endpoint, likely, is_reference=is_reference)
        except LMDynoError as error:
            return unknown(self._texts, error)

    def _no_scores(self) -> tuple[TextScore, ...]:
        """Return why there is no likelihood, where texts were asked for and the reference's ids
        aren't known.
        """
        if self._no_texts is None:
            return ()
        error = ErrorInfo.of(self._no_texts)
        return tuple(TextScore(text=text.name, error=error) for text in self._plan.texts)

    async def _on_devices(
        self, lane: LaneSpec, endpoint: Endpoint, likely: Path, *, is_reference: bool
    ) -> tuple[TextScore, ...]:
        """Forward passes while nothing else is measured on the lane's devices."""
        texts = tuple(text for text in self._texts if text.sequences)
        if not texts:
            return ()
        self._tell(N_("{lane}: loading the weights to score", lane=lane.name), 1 - _SCORING_SHARE)
        ticket = self._devices.join(endpoint.devices, lambda _place: None)
        try:
            await self._devices.admission(ticket)
            return await by_forward_pass(
                lane,
                endpoint.device or "cpu",
                texts,
                self._scoring_progress(lane),
                write_reference=likely if is_reference else None,
                read_reference=None if is_reference else likely,
            )
        finally:
            self._devices.release(ticket)

    def _not_scorable(self, lane: LaneSpec) -> LMDynoError | None:
        facts, reference = self._facts[lane.name], self._facts[self._plan.reference]
        return other_tokenizer(reference.tokenizer, facts.tokenizer)

    def _scoring_progress(self, lane: LaneSpec, *, over_http_share: bool = False) -> Callable[[float], None]:
        def told(done: float) -> None:
            half = done / 2 if over_http_share else 0.5 + done / 2
            self._tell(
                N_("{lane}: scoring texts", lane=lane.name), 1 - _SCORING_SHARE + _SCORING_SHARE * half
            )

        return told

    # The run

    def _tell(self, stage: Text, lane_share: float) -> None:
        self._report(stage, (self._lane_number + lane_share) / len(self._plan.lanes))

    def _change(self, lane: LaneSpec, **changes: object) -> None:
        self._facts[lane.name] = replace(self._facts[lane.name], **changes)  # type: ignore[arg-type]
        self._run = replace(self._run, lanes=tuple(self._facts.values()))
        self._save(self._run, ())

    def _finish(self, state: RunState, error: ErrorInfo | None = None) -> QualityRun:
        self._run = replace(self._run, state=state, error=error, finished_at=utc_now())
        self._save(self._run, ())
        return self._run


async def _show_life(runner: Runner, store: QualityRuns) -> None:
    while True:
        await asyncio.sleep(_SIGN_OF_LIFE_S)
        store.save(runner.run)


def _usage(records: Sequence[RequestRecord]) -> dict[str, object]:
    """Return what the lane's requests took together."""
    measured = [record.window for record in records if record.window is not None]
    energies = [window.energy_j for window in measured]
    known = [energy for energy in energies if energy is not None]
    return {
        "peak_gpu_bytes": max((w.peak_gpu_bytes for w in measured if w.peak_gpu_bytes), default=None),
        "peak_resident_bytes": max(
            (w.peak_resident_bytes for w in measured if w.peak_resident_bytes), default=None
        ),
        "energy_j": sum(known) if known and len(known) == len(records) else None,
    }


def _not_offered(dialect: Dialect) -> EngineError:
    return EngineError(
        N_("Servers with the dialect {dialect} don't return likelihoods.", dialect=dialect.value),
        hint=N_("Compare answers and tasks, or run the model on this machine."),
        code="no-such-endpoint",
    )


def _internal_error() -> LMDynoError:
    return EngineError(
        N_("The comparison failed unexpectedly."), hint=N_("See its log for details."), code="internal"
    )


if __name__ == "__main__":
    sys.exit(run(work))
