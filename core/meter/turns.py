"""Runs a turn: its requests one after another or together, each to its end.

Waits for engines and devices, holds leases while requests run, and reports what happens. One lane's failure
is that lane's result; the others go on. The command line and jobs run turns in their own process;
`run_and_keep` also puts them into the history.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterable
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

from core.access.identity import Person
from core.chat_api.client import Session, Timeouts, encoded, open_session
from core.chat_api.servers import place_of, with_model
from core.domain.conversation import StoredImage
from core.domain.specs import Endpoint, LaneSpec
from core.domain.turns import Mode, Phase, RequestRecord, TurnPlan
from core.engines.registry import lease
from core.engines.requests import StoppedRequests, send_explained
from core.engines.resolve import find_endpoint
from core.errors import EngineBusy, EngineError, InputError, LMDynoError, StoreError
from core.i18n import N_
from core.meter.devices import DeviceQueue, Ticket, UsageMeter, settled
from core.meter.protocol import Update
from core.meter.request import Request, send_to_node
from core.models.context import not_sendable
from core.settings import Settings
from core.telemetry.nvml import describe_machine

log = logging.getLogger(__name__)

_RESOLVE_POLL_S = 0.08
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """The parts of the program that a turn uses."""

    session: Session
    resolve: Callable[[LaneSpec], Endpoint | None]
    """Where a lane's requests go now; None while its engine is starting; raises EngineError."""
    lease: Callable[[str], AbstractContextManager[None]]
    """Keeps the lane's engine from being stopped."""
    image_url: Callable[[StoredImage], str] | None = None
    """An image's bytes as a data URL; called in threads; raises StoreError. None for turns without any."""
    devices: DeviceQueue | None = None
    """None measures without regard for other turns."""
    stopped: StoppedRequests | None = None
    """Engines that still compute for stopped requests are waited for; None looks for none."""
    usage: UsageMeter | None = None
    """Keeps what the machine did meanwhile with each record; None keeps nothing."""
    timeouts: Timeouts = field(default_factory=Timeouts)


class Turn:
    """One turn while it runs. Belongs to one event loop."""

    def __init__(self, plan: TurnPlan, around: Surroundings, on_update: Callable[[Update], None]) -> None:
        self.plan = plan
        self._around = around
        self.requests = tuple(
            Request(request, plan.id, plan.sampling, on_update) for request in plan.requests
        )
        self._ticket: Ticket | None = None
        self._queueing: asyncio.Task[None] | None = None
        self._queued: tuple[Request, ...] = ()

    @property
    def done(self) -> bool:
        return all(request.done for request in self.requests)

    def records(self) -> tuple[RequestRecord, ...]:
        """The facts so far, in plan order."""
        return tuple(request.record() for request in self.requests)

    def cancel(self, request_id: str | None = None, *, by: Person | None = None) -> None:
        """End one request, or all that still run; what arrived is kept. Returns at once.

        `by` is who wants it, for the record.
        """
        for request in self.requests:
            if request_id in (None, request.plan.id):
                request.cancel(by)
        if self._queueing and all(request.done for request in self._queued):
            self._queueing.cancel()

    async def run(self) -> None:
        """Run every request to its end; raises nothing but the cancellation of its own task."""
        try:
            await asyncio.gather(*(self._attempt(r, self._check) for r in self.requests if r.images))
            if self.plan.mode is Mode.TOGETHER:
                await self._together()
            else:
                await self._one_after_another()
        finally:
            for request in self.requests:
                request.cancel()
            self._leave_devices()

    async def _one_after_another(self) -> None:
        for request in self.requests:
            endpoint = await self._attempt(request, self._resolve)
            if endpoint is None and not request.done:
                # Its engine may need a device that another turn measures on: hold none while waiting.
                self._leave_devices()
                endpoint = await self._attempt(request, self._healthy)
            if endpoint and await self._take_devices(endpoint.devices, (request,)):
                await self._prepare_and_send((request,))

    async def _together(self) -> None:
        found = await asyncio.gather(*(self._attempt(r, self._healthy) for r in self.requests))
        devices = frozenset().union(*(endpoint.devices for endpoint in found if endpoint))
        if await self._take_devices(devices, self.requests):
            await self._prepare_and_send(self.requests)

    async def _prepare_and_send(self, requests: Iterable[Request]) -> None:
        """Send only when all are prepared, so that requests of one turn start at the same moment."""
        await asyncio.gather(*(self._attempt(request, self._settle) for request in requests))
        await asyncio.gather(*(self._attempt(request, self._prepare) for request in requests))
        await asyncio.gather(*(self._attempt(request, self._send) for request in requests))

    async def _attempt(self, request: Request, step: Callable[[Request], Coroutine[Any, Any, T]]) -> T | None:
        """The step's result; None if the request is over, by failure or cancelling, now or before."""
        if request.done:
            return None
        request.work = asyncio.create_task(step(request))
        try:
            return await request.work
        except asyncio.CancelledError:
            request.finish(cancelled=True)
            if _is_being_cancelled():
                raise
        except LMDynoError as error:
            request.finish(error)
        except Exception:
            log.exception("request failed lane=%s", request.plan.lane.name)
            request.finish(_internal_error())
        finally:
            request.work = None
        return None

    async def _check(self, request: Request) -> None:
        """Refuse images that the lane's model can't take, before anything is started or sent for them."""
        plan = request.plan
        if problem := await asyncio.to_thread(not_sendable, plan.lane, plan.messages):
            raise InputError(problem.message, hint=problem.hint, code=problem.code)

    async def _resolve(self, request: Request) -> Endpoint | None:
        # In a thread, since it reads files.
        return await asyncio.to_thread(self._around.resolve, request.plan.lane)

    async def _healthy(self, request: Request) -> Endpoint:
        while (endpoint := await self._resolve(request)) is None:
            request.enter(Phase.STARTING)
            await asyncio.sleep(_RESOLVE_POLL_S)
        request.enter(Phase.QUEUED)
        return endpoint

    async def _settle(self, request: Request) -> None:
        """Wait until nothing on the request's devices computes for a stopped request, or note that it may."""
        endpoint = await self._resolve(request) if self._around.stopped else None
        if endpoint is None or self._around.stopped is None:
            return
        patience_s = self._around.timeouts.of(endpoint).first_token_s
        request.note(*await settled(self._around.stopped, endpoint, patience_s, request.settles))
        if request.has_settled:
            await self._healthy(request)  # somebody may have restarted the engine instead of waiting

    async def _prepare(self, request: Request) -> None:
        lane = request.plan.lane
        if lane.is_local:
            request.held.enter_context(self._around.lease(lane.name))
        endpoint = await self._resolve(request)
        if endpoint is None:
            raise EngineBusy(
                N_("The engine of {lane} is restarting.", lane=lane.name),
                hint=N_("Ask again when it is ready."),
                code="engine-restarting",
            )
        request.endpoint = await with_model(self._around.session, endpoint, self._around.timeouts)
        request.place = await place_of(request.endpoint)
        if request.images:
            # In a thread, and before the clock starts: it reads files and encodes megabytes.
            request.body = await asyncio.to_thread(self._encode, request, request.endpoint)
        if self._around.usage:
            await self._around.usage.begin(request.endpoint)

    def _encode(self, request: Request, endpoint: Endpoint) -> bytes:
        image_url = self._around.image_url
        if image_url is None:
            raise RuntimeError("a turn with images needs the image store")
        urls = {sha256: image_url(image) for sha256, image in request.images.items()}
        return encoded(endpoint, request.plan.messages, self.plan.sampling, urls)

    async def _send(self, request: Request) -> None:
        endpoint, answer = request.begin()
        sending = send_explained(
            self._around.session,
            endpoint,
            request.plan.messages,
            self.plan.sampling,
            answer,
            self._around.timeouts,
            body=request.body,
        )
        if endpoint.node is None:
            await sending
        else:
            resolve = partial(self._around.resolve, request.plan.lane)
            await send_to_node(sending, resolve, lambda: answer.text_chars)
        if self._around.usage:
            await request.measure(self._around.usage)
        request.finish()

    async def _take_devices(self, devices: frozenset[str], requests: tuple[Request, ...]) -> bool:
        """Wait for the devices; False if all the requests were cancelled meanwhile."""
        if self._ticket and self._ticket.devices == devices:
            return True
        self._leave_devices()
        if all(request.done for request in requests):
            return False
        queue = self._around.devices
        if queue is None or not devices:
            return True

        def on_place(place: int) -> None:
            for request in requests:
                request.enter(Phase.QUEUED, place)

        self._queued = requests
        self._ticket = queue.join(devices, on_place)
        self._queueing = asyncio.create_task(queue.admission(self._ticket))
        try:
            await self._queueing
        except asyncio.CancelledError:
            self._leave_devices()
            if _is_being_cancelled():
                raise
            return False
        finally:
            self._queueing = None
        return True

    def _leave_devices(self) -> None:
        if self._ticket and self._around.devices:
            self._around.devices.release(self._ticket)
        self._ticket = None


async def run_turn(
    plan: TurnPlan,
    *,
    resolve: Callable[[LaneSpec], Endpoint | None],
    lease: Callable[[str], AbstractContextManager[None]],
    on_update: Callable[[Update], None],
    cancel: asyncio.Event,
    timeouts: Timeouts = Timeouts(),  # noqa: B008 - frozen
    devices: DeviceQueue | None = None,
    stopped: StoppedRequests | None = None,
    image_url: Callable[[StoredImage], str] | None = None,
    usage: UsageMeter | None = None,
) -> tuple[RequestRecord, ...]:
    """Run a turn to its end and return its records, in plan order; failures are in them, never raised.

    `on_update` is called in this event loop and must return at once. Setting `cancel` ends every request
    that still runs, with what arrived kept.
    """
    async with open_session(on_left=stopped.note if stopped else None) as session:
        around = Surroundings(
            session=session,
            resolve=resolve,
            lease=lease,
            image_url=image_url,
            devices=devices,
            stopped=stopped,
            usage=usage,
            timeouts=timeouts,
        )
        turn = Turn(plan, around, on_update)
        watcher = asyncio.create_task(_cancel_when(cancel, turn))
        try:
            await turn.run()
        finally:
            watcher.cancel()
        return turn.records()


async def run_and_keep(
    settings: Settings,
    plan: TurnPlan,
    *,
    on_update: Callable[[Update], None] = lambda _update: None,
    cancel: asyncio.Event | None = None,
    on_problem: Callable[[StoreError], None] | None = None,
    usage: UsageMeter | None = None,
) -> tuple[RequestRecord, ...]:
    """The turn's records, in plan order; failures of lanes are in them.

    Setting `cancel` ends every request that still runs. `on_problem` hears why the turn couldn't be stored;
    without it that StoreError is raised.
    """
    # A database and an image library come along, which the meter's process doesn't wait for.
    from core.images.store import ImageStore
    from core.store.turns import Store

    with closing(Store(settings.database_url)) as store:
        is_kept = _kept(lambda: store.save_turn(plan, describe_machine()), on_problem)

        def save_records() -> None:
            for record in records:
                store.save_request(record)

        records = await run_turn(
            plan,
            resolve=partial(find_endpoint, settings),
            lease=partial(lease, settings),
            on_update=on_update,
            cancel=cancel or asyncio.Event(),
            devices=DeviceQueue(settings.locks_dir),
            stopped=StoppedRequests(settings),
            image_url=ImageStore(settings.images_dir).data_url,
            usage=usage,
        )
        if is_kept:
            _kept(save_records, on_problem)
    return records


def _kept(write: Callable[[], None], on_problem: Callable[[StoreError], None] | None) -> bool:
    try:
        write()
    except StoreError as error:
        if on_problem is None:
            raise
        on_problem(error)
        return False
    return True


async def _cancel_when(cancel: asyncio.Event, turn: Turn) -> None:
    await cancel.wait()
    turn.cancel()


def _is_being_cancelled() -> bool:
    """Whether the running task itself is, rather than a task that it waited for."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _internal_error() -> LMDynoError:
    return EngineError(
        N_("The meter failed unexpectedly."),
        hint=N_("See the dashboard's log for details. The other lanes continue."),
        code="internal",
    )


async def unless_stopped(stop: asyncio.Event, work: Coroutine[Any, Any, None]) -> None:
    """Wait for the work or the stop request, whichever comes first."""
    task, stopped = asyncio.ensure_future(work), asyncio.ensure_future(stop.wait())
    await asyncio.wait((task, stopped), return_when=asyncio.FIRST_COMPLETED)
    stopped.cancel()
    if not task.done():
        task.cancel()
        await asyncio.wait((task,))
    elif error := task.exception():
        raise error
