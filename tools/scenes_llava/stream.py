"""Worker processes that draw scenes without end into memory shared with the training process.

The memory is anonymous and inherited, so neither its size nor its speed depends on a temporary file system.
Workers start before CUDA does.
"""

import mmap
import multiprocessing
import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.queues import SimpleQueue
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scenes.drawing import draw, font_files, roughen
from scenes.scene import Scene, Split, random_scene
from scenes.targets import ROWS, SCENE_FIELDS, THING_FIELDS, targets

from scenes_llava.prompts import OTHER_SYSTEMS, SYSTEM, Prompter, about_one, about_two
from scenes_llava.recipe import Recipe

_FORK = multiprocessing.get_context("fork")
_PLAIN_SHARE = 0.6
"""Of the pictures, drawn at the model's size and left as they are."""

Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Chunk:
    """Scenes and the dialogues about them: one dialogue for each scene, or for each two."""

    pictures_a_dialogue: int
    arrays: Arrays


def layout(recipe: Recipe) -> dict[str, tuple[tuple[int, ...], type[np.generic]]]:
    """Shape and type of each array of a chunk; dialogues of two pictures fill half of the rows."""
    scenes, tokens = recipe.scenes_a_chunk, recipe.two_pictures_tokens
    return {
        "pixels": ((scenes, recipe.image_px, recipe.image_px, 3), np.uint8),
        "thing": ((scenes, recipe.image_tokens), np.uint8),
        "glyph": ((scenes, recipe.image_tokens), np.uint8),
        "facts": ((scenes, ROWS, len(THING_FIELDS)), np.uint8),
        "scene": ((scenes, len(SCENE_FIELDS)), np.uint8),
        "ids": ((scenes, tokens), np.int32),
        "weights": ((scenes, tokens), np.float32),
    }


class Drawer:
    """Makes chunks; the same ones for the same generator and split."""

    def __init__(self, recipe: Recipe, tokenizer_file: Path, *, varied: bool) -> None:
        self._recipe = recipe
        self._prompter = Prompter(tokenizer_file, recipe.image_tokens)
        self._varied = varied
        self._fonts = 1 + len(font_files()) if varied else 1

    def fill(self, arrays: Arrays, rng: random.Random, split: Split) -> int:
        """Draw a chunk into the arrays; how many pictures each dialogue has."""
        recipe = self._recipe
        scenes = [random_scene(rng, split, fonts=self._fonts) for _ in range(recipe.scenes_a_chunk)]
        for row, scene in enumerate(scenes):
            arrays["pixels"][row] = self.picture(scene, rng)
            found = targets(scene, recipe.patches_a_side)
            arrays["thing"][row], arrays["glyph"][row] = found.thing, found.glyph
            arrays["facts"][row], arrays["scene"][row] = found.facts, found.scene
        pictures = 2 if self._varied and rng.random() < recipe.pairs_share else 1
        arrays["ids"][:] = 0
        arrays["weights"][:] = 0
        room = recipe.one_picture_tokens if pictures == 1 else recipe.two_pictures_tokens
        for row in range(recipe.scenes_a_chunk // pictures):
            turns = (
                about_one(scenes[row], rng, split)
                if pictures == 1
                else about_two((scenes[2 * row], scenes[2 * row + 1]), rng, split)
            )
            other_system = self._varied and rng.random() < 0.15
            system = rng.choice(OTHER_SYSTEMS) if other_system else SYSTEM
            tokens = self._prompter.tokens(turns, system=system, room=room)
            arrays["ids"][row, : len(tokens.ids)] = tokens.ids
            arrays["weights"][row, : len(tokens.ids)] = tokens.weights
        return pictures

    def picture(self, scene: Scene, rng: random.Random) -> Image.Image:
        side = self._recipe.image_px
        if not self._varied or rng.random() < _PLAIN_SHARE:
            return draw(scene, side, side)
        scale = rng.choice((0.8, 1.0, 1.4, 2.0))
        width, height = (round(side * scale * rng.uniform(0.8, 1.25)) for _ in range(2))
        rough = roughen(draw(scene, width, height), rng)
        return rough.resize((side, side), Image.Resampling.BICUBIC)


@contextmanager
def drawn(recipe: Recipe, tokenizer_file: Path, *, workers: int) -> Iterator[Iterator[Chunk]]:
    """Chunks of training scenes without end; each is valid until the next one is asked for."""
    slots = 4 * workers
    memory, size = _shared(recipe, slots)
    free: SimpleQueue[int] = _FORK.SimpleQueue()
    filled: SimpleQueue[tuple[int, int]] = _FORK.SimpleQueue()
    processes = [
        _FORK.Process(
            target=_work,
            args=(recipe, tokenizer_file, number, memory, size, free, filled),
            daemon=True,
        )
        for number in range(workers)
    ]
    for slot in range(slots):
        free.put(slot)
    for process in processes:
        process.start()

    def chunks() -> Iterator[Chunk]:
        while True:
            slot, pictures = filled.get()
            yield Chunk(pictures, _arrays(recipe, memory, slot * size))
            free.put(slot)

    try:
        yield chunks()
    finally:
        for process in processes:
            process.terminate()


def _work(
    recipe: Recipe,
    tokenizer_file: Path,
    number: int,
    memory: mmap.mmap,
    size: int,
    free: "SimpleQueue[int]",
    filled: "SimpleQueue[tuple[int, int]]",
) -> None:
    os.nice(5)
    drawer = Drawer(recipe, tokenizer_file, varied=True)
    rng = random.Random(recipe.seed * 1000 + number)
    while True:
        slot = free.get()
        filled.put((slot, drawer.fill(_arrays(recipe, memory, slot * size), rng, Split.TRAIN)))


def _shared(recipe: Recipe, slots: int) -> tuple[mmap.mmap, int]:
    size = sum(_nbytes(shape, kind) for shape, kind in layout(recipe).values())
    return mmap.mmap(-1, size * slots), size


def _arrays(recipe: Recipe, memory: mmap.mmap, offset: int) -> Arrays:
    arrays: Arrays = {}
    for name, (shape, kind) in layout(recipe).items():
        arrays[name] = np.ndarray(shape, kind, memory, offset)
        offset += _nbytes(shape, kind)
    return arrays


def _nbytes(shape: tuple[int, ...], kind: type[np.generic]) -> int:
    return -(-int(np.prod(shape)) * np.dtype(kind).itemsize // 64) * 64


def fixed_chunk(recipe: Recipe, tokenizer_file: Path, *, seed: int, split: Split) -> Chunk:
    """One chunk of plain pictures, always the same for the same seed."""
    arrays: Arrays = {name: np.zeros(shape, kind) for name, (shape, kind) in layout(recipe).items()}
    pictures = Drawer(recipe, tokenizer_file, varied=False).fill(arrays, random.Random(seed), split)
    return Chunk(pictures, arrays)
