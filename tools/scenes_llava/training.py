"""The two stages: the vision tower on its own lessons, then everything on questions and answers."""

import math
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from scenes.scene import Split
from torch import Tensor

from scenes_llava import shipping
from scenes_llava.heads import PatchHeads
from scenes_llava.model import ScenesLlava
from scenes_llava.prompts import Prompter
from scenes_llava.recipe import Recipe
from scenes_llava.rehearsal import rehearsal
from scenes_llava.stream import Chunk, fixed_chunk

_SAID_EVERY_S = 10.0
_CHECKED_EVERY_S = 30.0
_LESSONS = ("thing", "glyph", "facts", "scene")
_SHOWN = ("form", "color", "place", "same_both", "shapes", "left_form", "glyph", "glyph0", "glyph2")

Batch = dict[str, Tensor]


@dataclass(slots=True)
class Stage:
    """A share of the time, and what was seen in it."""

    name: str
    ends_s: float
    """By `time.monotonic`."""
    most_steps: int | None
    began_s: float = field(default_factory=time.monotonic)
    ended_s: float | None = None
    steps: int = 0
    scenes: int = 0
    losses: list[dict[str, float]] = field(default_factory=list)
    """A line for each report: elapsed time, step, losses, hits."""

    @property
    def progress(self) -> float:
        by_time = (time.monotonic() - self.began_s) / max(1e-9, self.ends_s - self.began_s)
        by_steps = self.steps / self.most_steps if self.most_steps else 0.0
        return min(1.0, max(by_time, by_steps))

    @property
    def seconds(self) -> float:
        return (self.ended_s or time.monotonic()) - self.began_s

    def goes_on(self) -> bool:
        """Whether there is time for another step; notes the end when there is not."""
        if self.progress >= 1:
            self.ended_s = time.monotonic()
        return self.ended_s is None

    def record(self) -> dict[str, Any]:
        return {
            "steps": self.steps,
            "scenes": self.scenes,
            "seconds": round(self.seconds, 1),
            "curve": self.losses,
        }


class Trainer:
    def __init__(
        self,
        model: ScenesLlava,
        recipe: Recipe,
        chunks: Iterator[Chunk],
        *,
        tokenizer_file: Path,
        out: Path,
        device: torch.device,
        say: Callable[[str], None],
    ) -> None:
        self.model, self.recipe, self.chunks = model, recipe, chunks
        self.device, self.out, self.say = device, out, say
        self.heads = PatchHeads(recipe.hidden).to(device)
        self.prompter = Prompter(tokenizer_file, recipe.image_tokens)
        self._checks = [
            self._moved(fixed_chunk(recipe, tokenizer_file, seed=seed, split=Split.HELD_OUT))
            for seed in (1, 2)
        ]
        self.best: dict[str, Tensor] | None = None
        self.best_accuracy = -1.0
        self._parts = 1

    def train_vision(self, stage: Stage) -> None:
        """The vision tower alone, each new chunk together with earlier ones."""
        vision = [*self.model.vision.parameters(), *self.heads.parameters()]
        optimizer = _adamw([(vision, self.recipe.vision_rate)], self.recipe)
        pool: deque[Batch] = deque(maxlen=self.recipe.pool_chunks)
        said_s = time.monotonic()
        while stage.goes_on():
            batch = [self._lessons(next(self.chunks)) for _ in range(self.recipe.fresh_chunks)]
            stage.scenes += sum(len(chunk["pixels"]) for chunk in batch)
            if pool:
                old = torch.randint(len(pool), (self.recipe.replayed_chunks,)).tolist()
                batch += [pool[number] for number in old]
            pool.extend(batch[: self.recipe.fresh_chunks])
            _set_rates(optimizer, self.recipe, stage, floor=0.15)
            loss, hits = self._lesson(
                {name: torch.cat([chunk[name] for chunk in batch]) for name in batch[0]}
            )
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            self._step(optimizer)
            stage.steps += 1
            if time.monotonic() - said_s > _SAID_EVERY_S:
                said_s = time.monotonic()
                self._report(
                    stage, {"patches": loss, **{name: hits[name] for name in _SHOWN if name in hits}}
                )

    def train_all(self, stage: Stage) -> None:
        """Vision tower, projector and adapter on dialogues; keeps what does best on unseen scenes."""
        model, recipe = self.model, self.recipe
        with torch.no_grad():
            model.fit_projector(model.features(self._checks[0]["pixels"]))
        plain = rehearsal(model, self.prompter, recipe)
        adapter = [part for module in model.adapter().values() for part in (module.down, module.up)]
        vision = [*model.vision.parameters(), *self.heads.parameters()]
        groups = [
            (vision, recipe.tuned_vision_rate),
            (list(model.projector.parameters()), recipe.projector_rate),
            (adapter, recipe.adapter_rate),
        ]
        optimizer = _adamw(groups, recipe)
        said_s = checked_s = time.monotonic()
        while stage.goes_on():
            batch = self._moved(next(self.chunks))
            _set_rates(optimizer, recipe, stage, floor=0.0)
            losses = self._dialogue_step(optimizer, batch, plain, stage.steps)
            stage.steps += 1
            stage.scenes += len(batch["pixels"])
            now_s = time.monotonic()
            if now_s - said_s > _SAID_EVERY_S:
                said_s = now_s
                self._report(stage, losses)
            if now_s - checked_s > _CHECKED_EVERY_S and stage.progress > 0.5:
                checked_s = now_s
                self._keep_best(stage)
        self._keep_best(stage)

    def _dialogue_step(
        self,
        optimizer: torch.optim.Optimizer,
        batch: Batch,
        plain: tuple[Tensor, Tensor],
        step: int,
    ) -> dict[str, Tensor]:
        """One step; a batch that the device can't hold is taken in halves from then on."""
        while True:
            try:
                optimizer.zero_grad(set_to_none=True)
                losses = self._backward(batch)
                if step % self.recipe.rehearsal_every == 0:
                    at = torch.randperm(len(plain[0]), device=self.device)[:32]
                    losses["plain"] = self._answers_loss(plain[0][at], plain[1][at], None)
                    losses["plain"].backward()
                self._step(optimizer)
            except torch.OutOfMemoryError:
                self._parts *= 2
                self.say(f"out of memory: taking batches in {self._parts} parts")
                torch.cuda.empty_cache()
            else:
                return losses

    def _backward(self, batch: Batch) -> dict[str, Tensor]:
        dialogues = int(batch["ids"].shape[0])
        pictures = len(batch["pixels"]) // dialogues
        size = -(-dialogues // self._parts)
        totals: dict[str, Tensor] = {}
        for begin in range(0, dialogues, size):
            rows = slice(begin, begin + size)
            seen = slice(begin * pictures, (begin + size) * pictures)
            features = self.model.features(batch["pixels"][seen])
            answers = self._answers_loss(batch["ids"][rows], batch["weights"][rows], features)
            patches, _ = self.heads(features, {name: batch[name][seen] for name in _LESSONS})
            share = len(batch["ids"][rows]) / dialogues
            ((answers + self.recipe.patch_loss_weight * patches) * share).backward()
            for name, value in (("answers", answers), ("patches", patches)):
                totals[name] = totals.get(name, torch.zeros((), device=self.device)) + value.detach() * share
        return totals

    def _answers_loss(self, ids: Tensor, weights: Tensor, features: Tensor | None) -> Tensor:
        logits, wanted, counts = self._answer_logits(ids, weights, features)
        return (F.cross_entropy(logits, wanted, reduction="none") * counts).sum() / counts.sum()

    def _answer_logits(
        self, ids: Tensor, weights: Tensor, features: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Logits, right ids and weights at the tokens that count."""
        hidden = self.model.hidden(ids, features)
        counted = weights[:, 1:] > 0
        return self.model.logits(hidden[:, :-1][counted]), ids[:, 1:][counted], weights[:, 1:][counted]

    def _lesson(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        loss, hits = self.heads(self.model.features(batch["pixels"]), batch)
        return loss, hits

    @torch.no_grad()
    def accuracy(self) -> float:
        """Share of answer tokens that come first on unseen scenes, given the right tokens before them."""
        right = total = 0.0
        for batch in self._checks:
            features = self.model.features(batch["pixels"])
            logits, wanted, counts = self._answer_logits(batch["ids"], batch["weights"], features)
            right += float(((logits.argmax(-1) == wanted) * counts).sum())
            total += float(counts.sum())
        return right / total

    def _keep_best(self, stage: Stage) -> None:
        accuracy = self.accuracy()
        self.say(f"{stage.name}: {accuracy:.2%} of answer tokens on unseen scenes")
        if accuracy > self.best_accuracy:
            self.best_accuracy, self.best = accuracy, shipping.shipped(self.model)
            shipping.write(self.best, self.recipe, self.out)

    def _step(self, optimizer: torch.optim.Optimizer) -> None:
        """Each group's gradient clipped by itself; a step that isn't finite is left out."""
        norms = [torch.nn.utils.clip_grad_norm_(group["params"], 1.0) for group in optimizer.param_groups]
        if torch.isfinite(torch.stack(norms).sum()):
            optimizer.step()

    def _lessons(self, chunk: Chunk) -> Batch:
        batch = self._moved(chunk)
        return {name: batch[name] for name in ("pixels", *_LESSONS)}

    def _moved(self, chunk: Chunk) -> Batch:
        batch = {
            name: torch.from_numpy(array).to(self.device, copy=True) for name, array in chunk.arrays.items()
        }
        dialogues = len(batch["ids"]) // chunk.pictures_a_dialogue
        room = (
            self.recipe.one_picture_tokens
            if chunk.pictures_a_dialogue == 1
            else self.recipe.two_pictures_tokens
        )
        batch["ids"] = batch["ids"][:dialogues, :room].long()
        batch["weights"] = batch["weights"][:dialogues, :room]
        return batch

    def _report(self, stage: Stage, values: dict[str, Tensor]) -> None:
        line = {"s": round(stage.seconds, 1), "step": stage.steps}
        line |= {name: round(float(value.detach()), 4) for name, value in values.items()}
        stage.losses.append(line)
        rate = stage.scenes / stage.seconds
        shown = " ".join(f"{name} {value:.3f}" for name, value in line.items() if name not in ("s", "step"))
        self.say(f"{stage.name}: step {stage.steps}, {rate:.0f} scenes/s, {shown}")


def _adamw(groups: list[tuple[list[Any], float]], recipe: Recipe) -> torch.optim.AdamW:
    return torch.optim.AdamW(
        [{"params": parameters, "lr": rate, "peak": rate} for parameters, rate in groups],
        betas=(0.9, 0.98),
        weight_decay=recipe.weight_decay,
    )


def _set_rates(optimizer: torch.optim.Optimizer, recipe: Recipe, stage: Stage, *, floor: float) -> None:
    """Linear warm-up by steps, then a cosine by the stage's progress down to `floor` times the peak."""
    warm = min(1.0, (stage.steps + 1) / recipe.warm_up_steps)
    cosine = floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * stage.progress))
    for group in optimizer.param_groups:
        group["lr"] = group["peak"] * warm * cosine
