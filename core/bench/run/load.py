"""Puts load on lanes for one pass: closed or open, each request timestamped by the meter's own client.

Knows nothing of engines, stores or statistics; each finished request is handed over at once.
"""

import asyncio
import logging
import random
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, count
from typing import Protocol

from core.bench.plan import Arrivals
from core.bench.workload import Bodies, Prompts
from core.chat_api.answer import Answer
from core.chat_api.client import Session, Timeouts
from core.domain.conversation import Message, Sampling
from core.domain.runs import BenchRequest
from core.domain.specs import Endpoint
from core.domain.turns import ErrorInfo, FinishReason
from core.engines.requests import send_explained
from core.errors import EngineError, LMDynoError
from core.i18n import N_, Text

log = logging.getLogger(__name__)

GIVE_UP_AFTER = 20
"""Failures in a row after which a lane is left alone until the pass ends, more at high concurrency."""
_PAUSE_AFTER_FAILURE_S = 0.05
_NS = 1e-9


@dataclass(slots=True, kw_only=True)
class LaneLoad:
    """One lane during one pass."""

    name: str
    endpoint: Endpoint
    prompts: Prompts
    next_prompt: int
    """Number of the next prompt; the pass counts it up."""
    step: int = 1
    """From one prompt's number to the next: with several processes each takes every so-manieth."""
    bodies: Bodies | None = None
    """From the next prompt on, made ahead; None for prompts of text, which are quickly written."""
    begun: int = 0
    """Measured requests that were sent."""
    finished: int = 0
    failures_in_a_row: int = 0
    notes: dict[Text, None] = field(default_factory=dict)
    """What the answers say about how they were sent and read, each once, in order."""

    async def take_prompt(self) -> tuple[tuple[Message, ...], bytes | None]:
        """The next request's messages, and its body where that was made ahead."""
        number, self.next_prompt = self.next_prompt, self.next_prompt + self.step
        messages = self.prompts.messages(number)
        return messages, await self.bodies.take() if self.bodies else None

    async def ready(self) -> None:
        """Wait until everything is prepared."""
        if self.bodies:
            await self.bodies.ready()


@dataclass(frozen=True, slots=True, kw_only=True)
class Extent:
    """The length of a pass, in seconds or requests: exactly one of the two."""

    requests: int | None = None
    """Of each lane. Of several lanes each goes on until the last has its number, so that none is alone."""
    seconds: float | None = None
    """For how long new requests are sent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sending:
    """The options that all requests of a run share."""

    session: Session
    sampling: Sampling
    on_request: Callable[[BenchRequest], None]
    """Called in the event loop for each request that ended; must return at once."""
    numbers: Iterator[int]
    timeouts: Timeouts = field(default_factory=Timeouts)


class Load(Protocol):
    """The load of one pass, sent by this process (`PassLoad`) or by several."""

    start_ns: int
    end_ns: int

    @property
    def tokens(self) -> dict[str, int]: ...
    @property
    def finished(self) -> int: ...
    @property
    def notes(self) -> dict[str, tuple[Text, ...]]: ...
    @property
    def done_ratio(self) -> float: ...
    async def warm_up(self, requests: int, concurrency: int) -> None: ...
    async def run_closed(self, concurrency: int) -> None: ...
    async def run_open(self, arrivals: Callable[[], Iterable[float]]) -> None: ...


class PassLoad:
    """The load of one pass. Cancelling `run` ends all requests, which are handed over as cancelled."""

    def __init__(self, number: int, lanes: Sequence[LaneLoad], extent: Extent, sending: Sending) -> None:
        self._number = number
        self._lanes = lanes
        self._extent = extent
        self._sending = sending
        self._give_up_after = GIVE_UP_AFTER
        self._started_s = 0.0
        self._turnstile = asyncio.Lock()
        self.tokens: dict[str, int] = {}
        """Output tokens of the measured requests that were answered, by lane."""
        self.start_ns = 0
        self.end_ns = 0

    @property
    def finished(self) -> int:
        """Measured requests that have ended, of all lanes."""
        return sum(self.finished_by_lane.values())

    @property
    def finished_by_lane(self) -> dict[str, int]:
        return {lane.name: lane.finished for lane in self._lanes}

    @property
    def notes(self) -> dict[str, tuple[Text, ...]]:
        """What must be known about each lane's answers."""
        return {lane.name: tuple(lane.notes) for lane in self._lanes}

    @property
    def done_ratio(self) -> float:
        """How much of the pass is over, 0 to 1."""
        if self._extent.seconds is not None:
            return min(1.0, (time.perf_counter() - self._started_s) / self._extent.seconds)
        return min(1.0, min(lane.finished for lane in self._lanes) / (self._extent.requests or 1))

    async def warm_up(self, requests: int, concurrency: int) -> None:
        """Send unmeasured requests to all lanes at once, and prepare what the measured ones need."""
        async with asyncio.TaskGroup() as group:
            for lane in self._lanes:
                left = iter(range(requests))
                for _ in range(min(requests, concurrency)):
                    group.create_task(self._warm_up_stream(lane, left))
        for lane in self._lanes:
            await lane.ready()

    async def run_closed(self, concurrency: int, *, start_ns: int | None = None) -> None:
        """Keep `concurrency` requests of each lane under way until the pass is long enough.

        `start_ns`: when to begin, by `time.perf_counter_ns`; None is now.
        """
        self._give_up_after = max(GIVE_UP_AFTER, 2 * concurrency)
        await self._begin(start_ns)
        async with asyncio.TaskGroup() as group:
            for lane in self._lanes:
                for _ in range(concurrency):
                    group.create_task(self._stream(lane))
        self._end()

    async def run_open(self, arrivals: Callable[[], Iterable[float]], *, start_ns: int | None = None) -> None:
        """Send a request to each lane whenever its schedule says so, however many are still unanswered.

        `arrivals` gives one lane's schedule, in seconds from the start.
        """
        await self._begin(start_ns)
        async with asyncio.TaskGroup() as group:
            for lane in self._lanes:
                group.create_task(self._scheduled(lane, arrivals(), group))
        self._end()

    async def _begin(self, start_ns: int | None) -> None:
        now_ns = time.perf_counter_ns()
        self.start_ns = now_ns if start_ns is None else start_ns
        self._started_s = self.start_ns * _NS
        if self.start_ns > now_ns:
            await asyncio.sleep((self.start_ns - now_ns) * _NS)

    def _end(self) -> None:
        self.end_ns = time.perf_counter_ns()

    def _goes_on(self, lane: LaneLoad) -> bool:
        """Whether the lane is to be sent another request."""
        if self._has_given_up(lane):
            return False
        if self._extent.seconds is not None:
            return time.perf_counter() - self._started_s < self._extent.seconds
        requests = self._extent.requests or 0
        return lane.begun < requests or any(
            other.finished < requests and not self._has_given_up(other)
            for other in self._lanes
            if other is not lane
        )

    def _has_given_up(self, lane: LaneLoad) -> bool:
        return lane.failures_in_a_row >= self._give_up_after

    async def _warm_up_stream(self, lane: LaneLoad, left: Iterator[int]) -> None:
        for _ in left:
            await self._request(lane, warmup=True)

    async def _stream(self, lane: LaneLoad) -> None:
        while self._goes_on(lane):
            lane.begun += 1
            await self._take_turn()
            await self._measured(lane)
            if lane.failures_in_a_row:
                # A server that refuses at once would else be asked thousands of times a second.
                await asyncio.sleep(_PAUSE_AFTER_FAILURE_S)

    async def _take_turn(self) -> None:
        """Let what has arrived be timestamped before the next request is written, and write only one.

        Streams whose answers end together would else write all their requests in a row, some tenths of a
        millisecond each, and whatever arrives meanwhile would be timestamped late.
        """
        async with self._turnstile:
            await asyncio.sleep(0)

    async def _scheduled(self, lane: LaneLoad, offsets_s: Iterable[float], group: asyncio.TaskGroup) -> None:
        for offset_s in offsets_s:
            if self._extent.seconds is not None and offset_s >= self._extent.seconds:
                return
            await asyncio.sleep(max(0.0, self._started_s + offset_s - time.perf_counter()))
            if not self._goes_on(lane):
                return
            lane.begun += 1
            group.create_task(self._measured(lane, planned_ns=self.start_ns + round(offset_s / _NS)))

    async def _measured(self, lane: LaneLoad, planned_ns: int | None = None) -> None:
        request = await self._request(lane, planned_ns=planned_ns)
        lane.finished += 1
        lane.failures_in_a_row = lane.failures_in_a_row + 1 if request.failed else 0
        if request.ok and request.timing and request.timing.output_tokens is not None:
            self.tokens[lane.name] = self.tokens.get(lane.name, 0) + request.timing.output_tokens

    async def _request(
        self, lane: LaneLoad, *, warmup: bool = False, planned_ns: int | None = None
    ) -> BenchRequest:
        answer = Answer(lane.endpoint.dialect)
        number = next(self._sending.numbers)

        def facts(ended: FinishReason | None = None, error: ErrorInfo | None = None) -> BenchRequest:
            return BenchRequest(
                number=number,
                pass_number=self._number,
                lane=lane.name,
                warmup=warmup,
                planned_ns=planned_ns,
                timing=answer.timing(),
                prompt_tokens=answer.prompt_tokens,
                cached_tokens=answer.cached_tokens,
                finish_reason=ended or answer.finish_reason,
                error=error,
            )

        try:
            messages, body = await lane.take_prompt()
            await send_explained(
                self._sending.session,
                lane.endpoint,
                messages,
                self._sending.sampling,
                answer,
                self._sending.timeouts,
                body=body,
            )
        except LMDynoError as error:
            request = facts(FinishReason.ERROR, ErrorInfo.of(error))
        except asyncio.CancelledError:
            self._sending.on_request(facts(None if answer.complete else FinishReason.CANCELLED))
            raise
        except Exception:
            # A surprise is this request's failure; the run goes on.
            log.exception("request failed lane=%s", lane.name)
            request = facts(FinishReason.ERROR, ErrorInfo.of(_internal_error()))
        else:
            request = facts()
        for note in answer.notes:
            lane.notes[note] = None
        self._sending.on_request(request)
        return request


def _internal_error() -> LMDynoError:
    return EngineError(
        N_("LMDyno failed unexpectedly with this request."),
        hint=N_("See the log for details. The other requests continue."),
        code="internal",
    )


def arrivals(kind: Arrivals, rate_req_per_s: float, seed: int) -> Iterator[float]:
    """Seconds from the start of a pass to each request, without end; the first one is due at once.

    A Poisson process has independent, exponentially distributed gaps: in a short pass its own rate differs
    from `rate_req_per_s` by chance, by about 1/√n.
    """
    if kind is Arrivals.CONSTANT:
        return (number / rate_req_per_s for number in count())
    source = random.Random(seed)
    return accumulate((source.expovariate(rate_req_per_s) for _ in count()), initial=0.0)
