"""Answers the held-out set greedily with the model in training, and says how many are right."""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from scenes.drawing import draw
from scenes.exam import Item
from scenes.scoring import is_right
from torch import Tensor

from core.bench.statistics import wilson
from scenes_llava.model import ScenesLlava
from scenes_llava.prompts import END_ID, Prompter, Turn

_BATCH = 600
MOST_TOKENS = 72
_PAD = 0


@torch.no_grad()
def answer_all(
    model: ScenesLlava,
    prompter: Prompter,
    items: Sequence[Item],
    *,
    device: torch.device,
    hurry: Callable[[], bool],
) -> list[str | None]:
    """An answer to each item; None for those not reached when `hurry` became true."""
    answers: list[str | None] = [None] * len(items)
    side = model.vision.config.image_size
    for begin in range(0, len(items), _BATCH):
        if hurry():
            break
        part = items[begin : begin + _BATCH]
        pixels = np.stack([np.asarray(draw(item.scene, side, side)) for item in part])
        features = model.features(torch.from_numpy(pixels).to(device))
        prompts = [_prompt(prompter, item) for item in part]
        for at, ids in enumerate(greedy(model, prompts, features, most=MOST_TOKENS)):
            answers[begin + at] = prompter.decode(ids)
    return answers


def _prompt(prompter: Prompter, item: Item) -> list[int]:
    turns = [Turn(1 if at == 0 else 0, q.text, q.answer) for at, q in enumerate(item.earlier)]
    last = Turn(0 if turns else 1, item.question.text, "")
    return [*prompter.tokens(turns).ids, *prompter.question_ids(last)]


@torch.no_grad()
def greedy(
    model: ScenesLlava, prompts: Sequence[list[int]], features: Tensor | None, *, most: int
) -> list[list[int]]:
    """The answers' ids, without their end token. No cache: answers are short, and taking the whole sequence
    once more for each token is exact and simple."""
    device = model.embeddings.device
    lengths = torch.tensor([len(prompt) for prompt in prompts], device=device)
    ids = torch.full((len(prompts), int(lengths.max()) + most), _PAD, device=device)
    for row, prompt in enumerate(prompts):
        ids[row, : len(prompt)] = torch.tensor(prompt, device=device)
    open_rows = torch.arange(len(prompts), device=device)
    at = lengths.clone()
    for _ in range(most):
        seen = features[open_rows] if features is not None else None
        hidden = model.hidden(ids[open_rows, : int(at[open_rows].max())], seen)
        last = hidden[torch.arange(len(open_rows), device=device), at[open_rows] - 1]
        best = model.logits(last).argmax(-1)
        going = best != END_ID
        open_rows, best = open_rows[going], best[going]
        if not len(open_rows):
            break
        ids[open_rows, at[open_rows]] = best
        at[open_rows] += 1
    ends = at.tolist()
    return [ids[row, len(prompt) : ends[row]].tolist() for row, prompt in enumerate(prompts)]


def accuracy(items: Sequence[Item], answers: Sequence[str | None]) -> dict[str, dict[str, Any]]:
    """By topic: right, asked, share and its 95 % interval. Items without an answer count as not asked."""
    asked: Counter[str] = Counter()
    right: Counter[str] = Counter()
    for item, answer in zip(items, answers, strict=True):
        if answer is not None:
            asked[item.topic] += 1
            right[item.topic] += is_right(answer, item.question.answers)
    table = {}
    for topic in sorted(asked):
        interval = wilson(right[topic], asked[topic])
        table[topic] = {
            "right": right[topic],
            "asked": asked[topic],
            "share": round(right[topic] / asked[topic], 4),
            "interval_95": [round(interval.low, 4), round(interval.high, 4)] if interval else None,
        }
    return table
