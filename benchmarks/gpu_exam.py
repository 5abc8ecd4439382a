"""The demo vision model's held-out set put to several engines: who is right, and who says the same."""

import asyncio
import sys
import threading
from collections.abc import Iterable, Sequence
from statistics import median
from typing import Any

from gpu_images import Site
from gpu_steps import ROOT

sys.path.insert(0, str(ROOT / "tools"))

from scenes.drawing import draw
from scenes.exam import TOPICS, Item, exam
from scenes.scoring import is_right, normalised

from core.bench.statistics import wilson
from core.domain.conversation import Exchange, Sampling, StoredImage, messages_for
from core.domain.specs import LaneSpec
from core.domain.turns import RequestRecord
from core.models.vision import vision_of

TOKENS = 72
MOST_DIFFERENT = 20
"""Answers that are kept as examples where two engines differ."""


def examine(site: Site, lanes: Sequence[LaneSpec], per_topic: int, hurry: threading.Event) -> dict[str, Any]:
    """Ask every question, greedily: each alone on its engine, the engines at the same time.

    Once `hurry` is set the rest is left out.
    """
    items = exam(per_topic)
    side_px = _side_px(lanes[0])
    images = [site.keep(draw(item.scene, side_px, side_px)) for item in items]

    async def all_lanes() -> list[list[RequestRecord]]:
        return await asyncio.gather(*(_answers(site, lane, items, images, hurry) for lane in lanes))

    answers = asyncio.run(all_lanes())
    reached = min(map(len, answers))
    records = {lane.name: records[:reached] for lane, records in zip(lanes, answers, strict=True)}
    return {"planned": len(items), **_report(items[:reached], records)}


async def _answers(
    site: Site, lane: LaneSpec, items: Sequence[Item], images: Sequence[StoredImage], hurry: threading.Event
) -> list[RequestRecord]:
    found = []
    for item, image in zip(items, images, strict=True):
        if hurry.is_set():
            break
        earlier = [
            Exchange(asked.text, asked.answer, (image,) if place == 0 else ())
            for place, asked in enumerate(item.earlier)
        ]
        messages = messages_for(item.question.text, earlier=earlier, images=() if earlier else (image,))
        found.append(await site.ask(lane, messages, Sampling(max_tokens=TOKENS)))
    return found


def _report(items: Sequence[Item], records: dict[str, list[RequestRecord]]) -> dict[str, Any]:
    found: dict[str, Any] = {"questions": len(items)}
    for lane, answers in records.items():
        found[lane] = {
            "failed": sum(answer.error is not None for answer in answers),
            "errors": sorted({answer.error.message for answer in answers if answer.error})[:3],
            "median_ttft_s": known_median(answer.ttft_s for answer in answers),
            "median_prompt_tokens": known_median(answer.prompt_tokens for answer in answers),
            "all": _accuracy(items, answers),
            "topics": {str(topic): _accuracy(items, answers, topic) for topic in TOPICS},
        }
    if len(records) == 2 and items:
        found["same_answer"] = _same(items, records)
    return found


def _same(items: Sequence[Item], records: dict[str, list[RequestRecord]]) -> dict[str, Any]:
    """On how many questions two lanes say the same, to the letter."""
    pairs = list(zip(items, *records.values(), strict=True))
    different = [pair for pair in pairs if pair[1].text != pair[2].text]
    same = len(pairs) - len(different)
    return {
        "of": len(pairs),
        "same": same,
        "share": same / len(pairs),
        "interval_95": _interval(same, len(pairs)),
        "same_but_for_punctuation": sum(
            normalised(one.text) == normalised(other.text) for _, one, other in pairs
        ),
        "different": [
            {"topic": item.topic, "question": item.question.text, "right": item.question.answer}
            | {lane: pair[place].text for place, lane in enumerate(records)}
            for item, *pair in different[:MOST_DIFFERENT]
        ],
    }


def _accuracy(
    items: Sequence[Item], answers: Sequence[RequestRecord], topic: str | None = None
) -> dict[str, Any]:
    verdicts = [
        is_right(answer.text, item.question.answers)
        for item, answer in zip(items, answers, strict=True)
        if topic in (None, item.topic)
    ]
    right = sum(verdicts)
    share = right / len(verdicts) if verdicts else None
    return {
        "right": right,
        "asked": len(verdicts),
        "share": share,
        "interval_95": _interval(right, len(verdicts)),
    }


def _interval(right: int, asked: int) -> tuple[float, float] | None:
    interval = wilson(right, asked)
    return (interval.low, interval.high) if interval else None


def _side_px(lane: LaneSpec) -> int:
    """Of the squares that the lane's LLaVA takes: drawn at that size, a scene need not be scaled."""
    vision = vision_of(lane.model.checkpoint) if lane.model else None
    cost = vision.cost(256, 256) if vision else None
    assert cost
    return cost.width_px


def known_median(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return median(known) if known else None
