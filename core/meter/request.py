"""One request of a running turn: its state, its updates, and its record.

The end of a request to an engine on a node is explained by what the node, or its silence, says. A machine
that loses power closes no connection, and an engine's log on a node can't be read here. So while such a
request runs, its lane is looked at as well.
"""

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import ExitStack, suppress
from dataclasses import replace
from typing import Any

from core.access.identity import Person
from core.chat_api import dialects
from core.chat_api.answer import Answer
from core.domain.conversation import Sampling
from core.domain.specs import Endpoint
from core.domain.turns import (
    ErrorInfo,
    FinishReason,
    Growth,
    Phase,
    Place,
    RequestPlan,
    RequestRecord,
    UsageWindow,
)
from core.engines.requests import SAY_LITTLE, Unfinished
from core.errors import EngineError, LMDynoError
from core.i18n import N_, Text
from core.meter.devices import UsageMeter
from core.meter.protocol import Update

_ENDED_BY_SERVER = (
    FinishReason.STOP,
    FinishReason.LENGTH,
    FinishReason.TOOL_CALLS,
    FinishReason.CONTENT_FILTER,
)
_UPDATE_INTERVAL_S = 0.05
"""New text is told at most 20 times a second, the first at once."""
_LOOK_S = 1.0
_TOLD_WITHIN_S = 6.0
"""Within this time a node's agent tells why an engine died, or the node counts as dead."""


class Request:
    """The state of one lane's part of a turn. Belongs to one event loop."""

    def __init__(
        self,
        plan: RequestPlan,
        turn_id: str,
        sampling: Sampling,
        on_update: Callable[[Update], None],
    ) -> None:
        self.plan = plan
        self.images = {shown.sha256: shown for message in plan.messages for shown in message.images}
        """Those of all messages, each once, by hash."""
        self.endpoint: Endpoint | None = None
        self.place: Place | None = None
        """Where the endpoint's server is."""
        self.body: bytes | None = None
        """The encoded request, if it was made beforehand; let go of when the request is done."""
        self.work: asyncio.Task[object] | None = None
        """The step that runs now; cancelling it cancels the request."""
        self.held = ExitStack()
        """What the request gives back when it is done, such as its engine's lease."""
        self._turn_id = turn_id
        self._sampling = sampling
        self._on_update = on_update
        self._phase = Phase.QUEUED
        self._place: int | None = None
        self._answer: Answer | None = None
        """Gone when the request is done: its chunks take several times what the record takes."""
        self._final: RequestRecord | None = None
        self._error: ErrorInfo | None = None
        self._window: UsageWindow | None = None
        self._finish_reason: FinishReason | None = None
        self._stopped_by: Person | None = None
        self._said: list[Text] = []
        self._timer: asyncio.TimerHandle | None = None
        self._told_at = 0.0

    @property
    def done(self) -> bool:
        return self._phase is Phase.DONE

    def enter(self, phase: Phase, place: int | None = None) -> None:
        """Go to a phase and tell, unless nothing changed or the request is over."""
        if self.done or (phase, place) == (self._phase, self._place):
            return
        self._phase, self._place = phase, place
        self._on_update(Update(request_id=self.plan.id, phase=phase, place=place))

    def settles(self, _found: Unfinished) -> None:
        """It waits for an engine that still computes for a stopped request."""
        self.enter(Phase.SETTLING)

    @property
    def has_settled(self) -> bool:
        return self._phase is Phase.SETTLING

    def note(self, *texts: Text) -> None:
        """Keep what a reader of the record must know."""
        self._said.extend(texts)

    def begin(self) -> tuple[Endpoint, Answer]:
        """Return where to send, and the answer to fill; the request must have its endpoint."""
        if self.endpoint is None:
            raise RuntimeError("a request is prepared before it is sent")
        self._answer = Answer(
            self.endpoint.dialect,
            on_sent=lambda: self.enter(Phase.SENT),
            on_text=self._text_arrived,
        )
        return self.endpoint, self._answer

    async def measure(self, usage: UsageMeter) -> None:
        """Keep what the machine did from sending to the stream's end."""
        timing = self._answer.timing() if self._answer else None
        if self.endpoint and timing and timing.ended_ns is not None:
            self._window = await usage.end(
                self.plan.lane.name, self.endpoint, timing.sent_ns, timing.ended_ns
            )

    def cancel(self, by: Person | None = None) -> None:
        """End the request, with what arrived kept: at once if it waits, else as soon as its step ends."""
        if not self.done:
            self._stopped_by = self._stopped_by or by
        if self.work and not self.work.done():
            self.work.cancel()
        else:
            self.finish(cancelled=True)

    def finish(self, error: LMDynoError | None = None, *, cancelled: bool = False) -> None:
        """End the request and publish its record. Further calls change nothing."""
        if self.done:
            return
        if self._timer:
            self._timer.cancel()
        self.held.close()
        self.body = None
        self._phase, self._place = Phase.DONE, None
        if error:
            self._error = ErrorInfo.of(error)
            self._finish_reason = FinishReason.ERROR
        elif cancelled and not (self._answer and self._answer.complete):
            self._finish_reason = FinishReason.CANCELLED
        elif self._answer:
            self._finish_reason = self._answer.finish_reason
        self._final = self._record(0)
        self._tell()
        self._answer = None

    def record(self) -> RequestRecord:
        """The facts so far."""
        return self._final or self._record(0)

    def growth(self, first_chunk: int) -> Growth:
        """The facts so far, with the answer's chunks from that one on: takes as long as those are many."""
        return Growth(record=self._record(first_chunk), first_chunk=first_chunk)

    def _record(self, first_chunk: int) -> RequestRecord:
        endpoint, answer = self.endpoint, self._answer
        facts = replace(
            RequestRecord.of(self.plan, self._turn_id, phase=self._phase),
            engine_version=endpoint.version if endpoint else None,
            device=endpoint.device if endpoint else None,
            served_model=endpoint.model if endpoint else None,
            place=self.place,
            finish_reason=self._finish_reason,
            error=self._error,
            stopped_by=self._stopped_by if self._finish_reason is FinishReason.CANCELLED else None,
        )
        if endpoint is None or answer is None:
            return facts
        text = answer.text_from(first_chunk)
        return replace(
            facts,
            served_model=answer.served_model or endpoint.model,
            sent_at=answer.sent_at,
            timing=answer.timing(first_chunk),
            text=text.content,
            reasoning=text.reasoning,
            prompt_tokens=answer.prompt_tokens,
            cached_tokens=answer.cached_tokens,
            notes=(
                *self._said,
                *dialects.notes(endpoint.dialect, self._sampling, endpoint.request),
                *self._notes(answer),
            ),
            window=self._window,
        )

    def _notes(self, answer: Answer) -> list[Text]:
        notes = list(answer.notes)
        if self._finish_reason not in (None, *_ENDED_BY_SERVER) or not self.done:
            return notes
        if answer.calls_tool:
            notes.append(N_("The model called a tool, which LMDyno doesn't provide."))
        elif not answer.has_text:
            notes.append(N_("The answer has no text."))
        elif self._finish_reason is None:
            notes.append(N_("The server gave no reason for the answer's end, so it may be cut short."))
        tokens, asked = answer.output_tokens, self._sampling.max_tokens
        if tokens is None:
            notes.append(N_("The server reports no token counts, so speeds per token are unknown."))
        elif tokens > asked or (self._sampling.fixed_length and tokens < asked):
            exactly = N_("{tokens} tokens instead of the {asked} asked for.", tokens=tokens, asked=asked)
            at_most = N_(
                "{tokens} tokens, though at most {asked} were asked for.", tokens=tokens, asked=asked
            )
            notes.append(exactly if self._sampling.fixed_length else at_most)
        timing = answer.timing()
        if timing and timing.is_burst:
            notes.append(N_("The text came in one burst, so its decode speed is unknown."))
        return notes

    def _text_arrived(self) -> None:
        if self._phase is Phase.SENT:
            self._phase = Phase.STREAMING
        if self._timer is None:
            loop = asyncio.get_running_loop()
            wait_s = self._told_at + _UPDATE_INTERVAL_S - loop.time()
            if wait_s <= 0:
                self._tell()
            else:
                self._timer = loop.call_later(wait_s, self._tell)

    def _tell(self) -> None:
        self._timer = None
        self._told_at = asyncio.get_running_loop().time()
        content, reasoning = self._answer.take_text() if self._answer else ("", "")
        self._on_update(
            Update(
                request_id=self.plan.id,
                phase=self._phase,
                content=content,
                reasoning=reasoning,
                record=self._final,
            )
        )


async def send_to_node(
    sending: Coroutine[Any, Any, None],
    resolve: Callable[[], Endpoint | None],
    text_chars: Callable[[], int],
) -> None:
    """Run a request to its end, or until its node is dead and nothing more comes.

    Args:
        sending: the request.
        resolve: finds the lane's endpoint, or raises what is wrong with it; reads files.
        text_chars: how much of the answer there is.

    Raises:
        EngineError: what is wrong with the node or the engine there, else the request's own error.
    """
    task = asyncio.ensure_future(sending)
    try:
        before = -1
        while not (await asyncio.wait({task}, timeout=_LOOK_S))[0]:
            problem = await _problem_on_node(resolve)
            so_far = text_chars()
            # Its agent may be gone while the engine still answers.
            if problem is not None and problem.code.startswith("node-") and so_far == before:
                raise problem
            before = so_far
        await task
    except EngineError as error:
        cause = await _cause_on_node(resolve) if task.done() and error.code in SAY_LITTLE else None
        if cause is None:
            raise
        raise cause from error
    finally:
        if not task.done():
            task.cancel()
            with suppress(asyncio.CancelledError, EngineError):
                await task


async def _cause_on_node(resolve: Callable[[], Endpoint | None]) -> EngineError | None:
    clock = asyncio.get_running_loop().time
    deadline = clock() + _TOLD_WITHIN_S
    while (problem := await _problem_on_node(resolve)) is None or problem.code.startswith("cluster-"):
        if clock() >= deadline:
            return None
        await asyncio.sleep(_LOOK_S / 2)
    return problem


async def _problem_on_node(resolve: Callable[[], Endpoint | None]) -> EngineError | None:
    try:
        await asyncio.to_thread(resolve)
    except EngineError as error:
        return error
    return None
