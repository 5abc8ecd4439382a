"""Asks one lane all prompts and tasks of a plan, one after another, through the meter's own code."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial

from core.domain.conversation import StoredImage, messages_for
from core.domain.runs import Prompted, QualityAnswer
from core.domain.specs import Endpoint, LaneSpec
from core.domain.turns import FinishReason, RequestPlan, RequestRecord, TurnPlan
from core.engines.leases import lease
from core.engines.resolve import find_endpoint
from core.engines.unfinished import StoppedRequests
from core.images.store import ImageStore
from core.meter.devices import DeviceQueue, UsageMeter
from core.meter.turns import run_turn
from core.quality.plan import QualityPlan
from core.settings import Settings


@dataclass(frozen=True, slots=True)
class Asked:
    """One request of a lane."""

    part: Prompted
    item: int
    repeat: int
    text: str
    max_tokens: int
    image: StoredImage | None = None


def requests_of(plan: QualityPlan, lane: LaneSpec) -> Iterator[Asked]:
    """Yield what a lane is asked, in order; the reference gets the prompts twice, the second time
    at the end.
    """
    for place, prompt in enumerate(plan.prompts):
        yield Asked(Prompted.PROMPT, place, 0, prompt, plan.answer_tokens)
    for place, task in enumerate(plan.tasks):
        yield Asked(Prompted.TASK, place, 0, task.text, task.max_tokens, task.image)
    if plan.repeat_reference and lane.name == plan.reference:
        for place, prompt in enumerate(plan.prompts):
            yield Asked(Prompted.PROMPT, place, 1, prompt, plan.answer_tokens)


@dataclass(frozen=True, slots=True, kw_only=True)
class Asker:
    """The parts of the program that asking uses."""

    settings: Settings
    devices: DeviceQueue
    usage: UsageMeter | None
    stopped: StoppedRequests
    stop: asyncio.Event

    async def ask(self, plan: QualityPlan, lane: LaneSpec, asked: Asked) -> RequestRecord:
        """The record of one request; a failure is in it, never raised."""
        images = (asked.image,) if asked.image else ()
        turn = TurnPlan(
            conversation_id=plan.id,
            prompt=asked.text,
            sampling=plan.sampling(asked.max_tokens),
            images=images,
            requests=(RequestPlan(lane=lane, messages=messages_for(asked.text, images=images)),),
        )
        resolve: Callable[[LaneSpec], Endpoint | None] = partial(find_endpoint, self.settings)
        hold: Callable[[str], AbstractContextManager[None]] = partial(lease, self.settings)
        (record,) = await run_turn(
            turn,
            resolve=resolve,
            lease=hold,
            image_url=ImageStore(self.settings.images_dir).data_url,
            devices=self.devices,
            stopped=self.stopped,
            usage=self.usage,
            on_update=lambda _: None,
            cancel=self.stop,
        )
        return record


def answer_of(asked: Asked, record: RequestRecord) -> QualityAnswer:
    """Return what is kept of a request."""
    return QualityAnswer(
        lane=record.lane.name,
        part=asked.part,
        item=asked.item,
        repeat=asked.repeat,
        text=record.text,
        prompt_tokens=record.prompt_tokens,
        finish_reason=record.finish_reason,
        error=record.error,
        timing=record.timing,
    )


def was_stopped(record: RequestRecord) -> bool:
    return record.finish_reason is FinishReason.CANCELLED
