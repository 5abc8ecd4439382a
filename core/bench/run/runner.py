"""Runs a plan from its first engine to its last request.

One lane's failure is that lane's result, the others go on. Everything measured is handed to the recorder as
it happens, so a run that is stopped, or dies, leaves what it had.
"""

import asyncio
import gc
import logging
import time
from collections.abc import Callable, Collection, Coroutine, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import count
from typing import Any, Protocol

from core import __version__, units
from core.bench.passes import Step, SweepProgress, estimated_step_s, steps
from core.bench.plan import BenchPlan, Isolation, SendFrom
from core.bench.run.load import Extent, LaneLoad, Load, PassLoad, Sending, arrivals
from core.bench.run.recording import QueueReader, Recorder, rises
from core.bench.run.split_load import Senders, SplitLoad
from core.bench.workload import Bodies, ImagePrompts, PromptMaker, Prompts, RequestImages, image_tokens
from core.chat_api.client import Session, Timeouts
from core.chat_api.dialects import notes as dialect_notes
from core.chat_api.servers import place_of, with_model
from core.codec import encode
from core.domain.runs import BenchPass, BenchRun, EngineUse, GpuUse, LaneFacts, ProgressCallback, RunState
from core.domain.specs import Endpoint, LaneSpec
from core.domain.turns import ErrorInfo, Machine, utc_now
from core.engines.requests import StoppedRequests, Unfinished
from core.errors import EngineError, LMDynoError
from core.i18n import N_, Message, Text
from core.memory.model_sizes import lane_weight_bytes
from core.meter.devices import DeviceQueue, Ticket, settled

log = logging.getLogger(__name__)

_REPORT_S = 0.5
_STORE_S = 10.0
"""How long the first pass waits for the store, whose opening would disturb it."""
_PROMPTS_OF_A_PASS = 2**24
"""Numbers of prompts that are set aside for each pass, so that no prompt comes twice."""


class Engines(Protocol):
    """The part of `core.cluster.control.Engines` that the runner uses."""

    async def ready(self, lane: LaneSpec, on_stage: Callable[[str], None]) -> Endpoint: ...
    async def stop(self, lane: LaneSpec) -> None: ...


class Telemetry(Protocol):
    """The runner's view of the machine during a pass."""

    async def mark(self) -> None:
        """The pass begins or has ended, now."""

    async def use(
        self, lanes: Collection[str], start_ns: int, end_ns: int
    ) -> tuple[tuple[GpuUse, ...], tuple[EngineUse, ...]]:
        """The GPUs that these lanes are on, and the run's engines, between two timestamps."""


def new_run(plan: BenchPlan, machine: Machine | None) -> BenchRun:
    """The run of a plan before anything has happened."""
    return BenchRun(
        id=plan.id,
        created_at=utc_now(),
        state=RunState.RUNNING,
        title=plan.label,
        plan=encode(plan).decode(),
        lmdyno=__version__,
        machine=machine,
        lanes=tuple(LaneFacts(lane=lane) for lane in plan.lanes),
    )


class Runner:
    """One run. Belongs to one event loop."""

    def __init__(
        self,
        plan: BenchPlan,
        run: BenchRun,
        *,
        session: Session,
        engines: Engines,
        devices: DeviceQueue,
        telemetry: Telemetry,
        recorder: Recorder,
        report: ProgressCallback,
        images: RequestImages | None = None,
        stopped: StoppedRequests | None = None,
        senders: Senders | None = None,
        timeouts: Timeouts = Timeouts(),  # noqa: B008 - frozen
    ) -> None:
        """`images`: those of the plan; `stopped`: engines that still compute for stopped requests are waited
        for; `senders`: what sends the load, instead of this process. Raises InputError for a prompt file
        that can't be used."""
        self._plan = plan
        self._run = run
        self._session = session
        self._engines = engines
        self._devices = devices
        self._telemetry = telemetry
        self._recorder = recorder
        self._report = report
        self._images = images
        self._stopped = stopped
        self._senders = senders
        self._timeouts = timeouts
        self._maker = PromptMaker(plan, session, timeouts)
        self._queues = QueueReader(session)
        self._sending = Sending(
            session=session,
            sampling=plan.workload.sampling(),
            on_request=recorder.save_request,
            numbers=count(),
            timeouts=timeouts,
        )
        self._facts = {facts.lane.name: facts for facts in run.lanes}
        self._endpoints: dict[str, Endpoint] = {}
        self._prompts: dict[str, Prompts] = {}
        self._ticket: Ticket | None = None
        self._spent_s = 0.0
        self._sweep = SweepProgress(plan)

    async def run(self, stop: asyncio.Event) -> BenchRun:
        """Run the plan to its end, or until `stop` is set; returns the run in its final state."""
        work = asyncio.create_task(self._work())
        stopping = asyncio.create_task(stop.wait())
        try:
            await asyncio.wait((work, stopping), return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                work.cancel()
                await asyncio.wait((work,))
            if work.cancelled():
                return self._finish(RunState.STOPPED)
            work.result()
        except BaseException as error:
            known = error if isinstance(error, LMDynoError) else _internal_error()
            self._finish(RunState.FAILED, ErrorInfo.of(known))
            raise
        finally:
            stopping.cancel()
            work.cancel()
            self._leave_devices()
        failures = [facts.error for facts in self._facts.values()]
        if all(failures):
            return self._finish(RunState.FAILED, failures[0])
        return self._finish(RunState.DONE)

    async def _work(self) -> None:
        if self._plan.isolation is not Isolation.STOPPED:
            await self._bring_up([lane.name for lane in self._plan.lanes])
        planned = list(steps(self._plan))
        costs = {step: estimated_step_s(self._plan, step) for step in planned}
        numbers = count()
        for place, step in enumerate(planned):
            if self._sweep.wanted(step) and await self._bring_up(step.group):
                left_s = sum(costs[left] for left in planned[place:])
                try:
                    await self._measure(step, next(numbers), costs, left_s)
                except EngineError as error:
                    self._leave_out(step.group, error)
            self._spent_s += costs[step]

    async def _bring_up(self, group: Sequence[str]) -> bool:
        """See to it that the lanes of a pass answer; False if one of them can't take part."""
        lanes = [lane for lane in self._plan.lanes if lane.name in group and not self._error(lane.name)]
        if self._plan.isolation is Isolation.STOPPED:
            for lane in self._plan.lanes:
                if lane.name not in group:
                    self._endpoints.pop(lane.name, None)
                    await self._attempt(lane, self._engines.stop(lane))
        await asyncio.gather(*(self._attempt(lane, self._resolve(lane)) for lane in lanes))
        await self._take_devices()
        for lane in lanes:
            if lane.name not in self._prompts and not self._error(lane.name):
                self._report(N_("{lane}: preparing prompts", lane=lane.name), None)
                await self._attempt(lane, self._make_prompts(lane))
        self._save_run()
        return not any(self._error(name) for name in group)

    def _leave_out(self, group: Sequence[str], error: EngineError) -> None:
        """The node that sends these lanes' requests is lost: the other lanes go on.

        Raises the error where all requests are sent from the same machines.
        """
        if self._plan.send_from is not SendFrom.ENGINE:
            raise error
        for name in group:
            self._facts[name] = replace(self._facts[name], error=ErrorInfo.of(error))
        self._save_run()

    async def _attempt(self, lane: LaneSpec, step: Coroutine[Any, Any, None]) -> None:
        """Do a step for a lane; its failure takes the lane out of the run."""
        try:
            await step
        except LMDynoError as error:
            log.warning("lane left out of the benchmark lane=%s code=%s", lane.name, error.code)
            self._facts[lane.name] = replace(self._facts[lane.name], error=ErrorInfo.of(error))

    async def _resolve(self, lane: LaneSpec) -> None:
        endpoint = await self._engines.ready(lane, lambda stage: self._report(stage, None))
        endpoint = await with_model(self._session, endpoint, self._timeouts)
        self._endpoints[lane.name] = endpoint
        self._facts[lane.name] = replace(
            self._facts[lane.name],
            engine_version=endpoint.version,
            device=endpoint.device,
            served_model=endpoint.model,
            place=await (self._senders.place if self._senders else place_of)(endpoint),
            weight_bytes=await asyncio.to_thread(lane_weight_bytes, lane),
            image_tokens=image_tokens(lane, self._plan.workload.images),
        )

    async def _make_prompts(self, lane: LaneSpec) -> None:
        prompts = await self._maker.prompts_for(lane, self._endpoints[lane.name])
        if self._images is not None:
            prompts = ImagePrompts(prompts, self._images)
        self._prompts[lane.name] = prompts
        self._facts[lane.name] = replace(self._facts[lane.name], prompts=prompts.label)

    async def _take_devices(self) -> None:
        """Wait until no other measurement runs on the devices of the lanes, and keep it so."""
        devices = frozenset().union(*(endpoint.devices for endpoint in self._endpoints.values()))
        if not devices or (self._ticket and self._ticket.devices >= devices):
            return
        self._leave_devices()
        names = ", ".join(sorted(devices))
        self._ticket = self._devices.join(
            devices,
            lambda _place: self._report(
                N_("Waiting for {device}: another measurement is running", device=names), None
            ),
        )
        await self._devices.admission(self._ticket)

    def _leave_devices(self) -> None:
        if self._ticket is not None:
            self._devices.release(self._ticket)
        self._ticket = None

    async def _measure(self, step: Step, number: int, costs: Mapping[Step, float], left_s: float) -> None:
        load = await self._load(step, number)
        title = _title(step, self._plan.repeats)
        await self._settle(step, title, left_s)
        self._report(N_("{point}: warm-up", point=title), self._progress(0.0, left_s))
        width = step.level.concurrency or self._plan.warmup
        await load.warm_up(self._plan.warmup, width)
        await asyncio.to_thread(self._recorder.ready.wait, _STORE_S)
        endpoints = {name: self._endpoints[name] for name in step.group}
        waited = await self._queues.read(endpoints)
        await self._telemetry.mark()
        # What has piled up so far is never looked at again, so the collector has little to do meanwhile.
        gc.collect()
        gc.freeze()
        bench_pass = BenchPass(
            number=number,
            repeat=step.repeat,
            lanes=step.group,
            level=step.level,
            started_at=utc_now(),
            start_ns=time.perf_counter_ns(),
        )
        self._recorder.save_pass(bench_pass)
        try:
            await self._watched(load, self._drive(load, step), title, costs[step], left_s)
        finally:
            for name, notes in load.notes.items():
                endpoint = self._endpoints[name]
                of_dialect = dialect_notes(endpoint.dialect, self._sending.sampling, endpoint.request)
                self._keep_notes(name, (*of_dialect, *notes))
            end_ns = load.end_ns or time.perf_counter_ns()
            bench_pass = replace(bench_pass, start_ns=load.start_ns or bench_pass.start_ns, end_ns=end_ns)
            self._recorder.save_pass(bench_pass)
        await self._telemetry.mark()
        gpus, engines = await self._telemetry.use(step.group, bench_pass.start_ns, end_ns)
        queues = rises(waited, await self._queues.read(endpoints))
        self._recorder.save_pass(replace(bench_pass, gpus=gpus, engines=engines, queues=queues))
        self._sweep.reached(step, _tok_per_s(load))

    async def _load(self, step: Step, number: int) -> Load:
        lanes = [self._lane_load(name, step) for name in step.group]
        extent = Extent(requests=self._plan.requests_at(step.level), seconds=self._plan.seconds)
        processes = await self._senders.of([lane.endpoint for lane in lanes]) if self._senders else None
        if processes is None:
            return PassLoad(number, lanes, extent, self._sending)
        return SplitLoad(number, lanes, extent, processes, step.level.concurrency)

    async def _settle(self, step: Step, title: str, left_s: float) -> None:
        """Wait until nothing computes for a stopped request where the pass will be measured."""

        def on_wait(_found: Unfinished) -> None:
            self._report(
                N_("{point}: waiting until a stopped request is finished", point=title),
                self._progress(0.0, left_s),
            )

        if self._stopped is None:
            return
        for name in step.group:
            endpoint = self._endpoints[name]
            patience_s = self._timeouts.of(endpoint).first_token_s
            self._keep_notes(name, await settled(self._stopped, endpoint, patience_s, on_wait))

    def _keep_notes(self, name: str, notes: Iterable[Text]) -> None:
        """Each once, in order."""
        facts = self._facts[name]
        self._facts[name] = replace(facts, notes=tuple(dict.fromkeys((*facts.notes, *notes))))

    def _lane_load(self, name: str, step: Step) -> LaneLoad:
        # The same numbers for every lane that is measured alone at this level and repeat.
        levels = self._plan.load.levels
        place = (step.repeat * len(levels) + levels.index(step.level)) * 2 + (len(step.group) > 1)
        first, endpoint, prompts = place * _PROMPTS_OF_A_PASS, self._endpoints[name], self._prompts[name]
        bodies = None
        if isinstance(prompts, ImagePrompts):
            measured = self._plan.requests_at(step.level)
            bodies = Bodies(
                partial(prompts.body, endpoint, self._sending.sampling),
                first,
                planned=None if measured is None else self._plan.warmup + measured,
                body_bytes=prompts.body_bytes,
            )
        return LaneLoad(name=name, endpoint=endpoint, prompts=prompts, next_prompt=first, bodies=bodies)

    async def _drive(self, load: Load, step: Step) -> None:
        if step.level.concurrency is not None:
            await load.run_closed(step.level.concurrency)
        elif step.level.rate_req_per_s is not None:
            kind, seed = self._plan.load.arrivals, self._plan.seed + step.repeat
            await load.run_open(partial(arrivals, kind, step.level.rate_req_per_s, seed))

    async def _watched(
        self, load: Load, driving: Coroutine[Any, Any, None], title: str, cost_s: float, left_s: float
    ) -> None:
        """Drive the load and tell how it goes meanwhile."""
        work = asyncio.create_task(driving)
        try:
            while not work.done():
                await asyncio.wait((work,), timeout=_REPORT_S)
                stage = N_(
                    "{point}: {n} requests, {speed}",
                    point=title,
                    n=units.count(load.finished),
                    speed=units.tok_per_s(_tok_per_s(load)),
                )
                self._report(stage, self._progress(load.done_ratio * cost_s, left_s))
        finally:
            if not work.done():
                work.cancel()
                await asyncio.wait((work,))
        work.result()

    def _progress(self, pass_s: float, left_s: float) -> float:
        return (self._spent_s + pass_s) / (self._spent_s + left_s)

    def _error(self, name: str) -> ErrorInfo | None:
        return self._facts[name].error

    def _save_run(self) -> None:
        self._run = replace(self._run, lanes=tuple(self._facts.values()))
        self._recorder.save_run(self._run)

    def _finish(self, state: RunState, error: ErrorInfo | None = None) -> BenchRun:
        self._run = replace(self._run, state=state, error=error, finished_at=utc_now())
        self._save_run()
        return self._run


def _title(step: Step, repeats: int) -> Message:
    lanes = " + ".join(step.group)
    if repeats > 1:
        return N_(
            "{lanes} · {load}, repeat {number} of {repeats}",
            lanes=lanes,
            load=step.level.label,
            number=step.repeat + 1,
            repeats=repeats,
        )
    return N_("{lanes} · {load}", lanes=lanes, load=step.level.label)


def _tok_per_s(load: Load) -> float | None:
    """Output tokens a second of all lanes so far; None before anything was answered."""
    if not load.tokens:
        return None
    elapsed_ns = (load.end_ns or time.perf_counter_ns()) - load.start_ns
    return sum(load.tokens.values()) / (elapsed_ns * 1e-9) if elapsed_ns > 0 else None


def _internal_error() -> LMDynoError:
    return EngineError(
        N_("The benchmark failed unexpectedly."),
        hint=N_("See its log for details."),
        code="internal",
    )
