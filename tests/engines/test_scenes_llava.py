"""Training the demo vision model, in miniature: it learns, keeps its best state, and answers an exam."""

import itertools

import numpy as np
import pytest
import torch
from scenes.exam import exam
from scenes.scene import Split
from scenes_llava import examination, shipping
from scenes_llava.examination import accuracy, answer_all, greedy
from scenes_llava.model import ScenesLlava
from scenes_llava.prompts import END_ID, IMAGE_TOKEN_ID, Prompter, Turn
from scenes_llava.recipe import TINY
from scenes_llava.stream import drawn, fixed_chunk
from scenes_llava.training import Stage, Trainer

from tests.engines.demo_vision_tiny import write_tiny_text

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    return write_tiny_text(tmp_path_factory.mktemp("text"))


@pytest.fixture
def prompter(text):
    return Prompter(text / "tokenizer.json", TINY.image_tokens)


@pytest.fixture
def trainer(text, tmp_path):
    torch.manual_seed(0)
    chunk = fixed_chunk(TINY, text / "tokenizer.json", seed=5, split=Split.TRAIN)
    return Trainer(
        ScenesLlava(TINY, text, torch.float32),
        TINY,
        itertools.repeat(chunk),
        tokenizer_file=text / "tokenizer.json",
        out=tmp_path / "out",
        device=CPU,
        say=lambda line: None,
    )


def stage(name: str, steps: int) -> Stage:
    return Stage(name, ends_s=float("inf"), most_steps=steps)


def test_both_stages_learn_and_the_best_state_is_written(trainer, tmp_path):
    chunk = next(trainer.chunks)
    batch = trainer._lessons(chunk)
    before = trainer._lesson(batch)[0].item()
    trainer.train_vision(stage("vision", 22))
    assert trainer._lesson(batch)[0].item() < 0.9 * before

    moved = trainer._moved(chunk)

    def loss() -> float:
        features = trainer.model.features(moved["pixels"])
        return trainer._answers_loss(moved["ids"], moved["weights"], features).item()

    untrained = loss()
    trainer.train_all(stage("dialogues", 22))
    assert loss() < 0.8 * untrained
    assert trainer.best is not None
    written = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert written == ["architecture.json", "part-1.safetensors.xz"]


def test_the_frozen_weights_stay_and_the_adapter_changes(trainer):
    weight = next(iter(trainer.model.adapter().values())).weight.clone()
    trainer.train_all(stage("dialogues", 2))
    module = next(iter(trainer.model.adapter().values()))
    assert torch.equal(module.weight, weight)
    assert module.up.abs().max() > 0


def test_a_batch_that_does_not_fit_is_taken_in_halves_with_the_same_gradient(trainer):
    moved = trainer._moved(next(trainer.chunks))
    losses = []
    for parts in (1, 2):
        trainer._parts = parts
        losses.append(trainer._backward(moved)["answers"].item())
    assert losses[0] == pytest.approx(losses[1], rel=0.1)


def test_a_restored_state_is_what_was_shipped(trainer):
    trainer.train_all(stage("dialogues", 2))
    trainer.model.projector.linear_2.weight.data.zero_()
    shipping.restore(trainer.model, trainer.best)
    again = shipping.shipped(trainer.model)
    assert all(torch.allclose(again[name], tensor, atol=1e-6) for name, tensor in trainer.best.items())


def test_parts_stay_below_what_can_be_carried(tmp_path, trainer, monkeypatch):
    monkeypatch.setattr(shipping, "PART_BYTES", 100_000)
    shipping.write(shipping.shipped(trainer.model), TINY, tmp_path)
    sizes = [path.stat().st_size for path in tmp_path.glob("part-*.safetensors.xz")]
    assert len(sizes) > 2
    assert max(sizes) < 250_000


def test_the_exam_is_answered_and_counted(trainer, prompter, monkeypatch):
    monkeypatch.setattr(examination, "MOST_TOKENS", 4)
    items = exam(1)
    given = answer_all(trainer.model, prompter, items, device=CPU, hurry=lambda: False)
    assert all(isinstance(answer, str) for answer in given)
    table = accuracy(items, [item.question.answer for item in items])
    assert all(row["share"] == 1 and row["asked"] == 1 for row in table.values())
    assert accuracy(items, [None] * len(items)) == {}


def test_in_a_hurry_the_rest_is_left_out(trainer, prompter):
    assert answer_all(trainer.model, prompter, exam(1), device=CPU, hurry=lambda: True)[0] is None


def test_greedy_answers_do_not_depend_on_what_else_is_in_the_batch(trainer, prompter):
    prompts = [
        prompter.question_ids(Turn(0, text, "")) for text in ("Where is it?", "What color is the star?")
    ]
    together = greedy(trainer.model, prompts, None, most=5)
    assert together == [greedy(trainer.model, [prompt], None, most=5)[0] for prompt in prompts]


def test_the_loss_counts_answers_alone(prompter):
    tokens = prompter.tokens([Turn(1, "What color is the star?", "red"), Turn(0, "Where is it?", "top")])
    said = [number for number, weight in zip(tokens.ids, tokens.weights, strict=True) if weight > 0]
    assert said == [*prompter.encode("red"), END_ID, *prompter.encode("top"), END_ID]
    assert tokens.ids.count(IMAGE_TOKEN_ID) == TINY.image_tokens


def test_turns_that_do_not_fit_are_left_out_with_all_that_follow(prompter):
    turns = [Turn(1, "Where is it?", "top"), Turn(0, "What color is the star?", "red")]
    whole = prompter.tokens(turns)
    assert len(prompter.tokens(turns, room=len(whole.ids)).ids) == len(whole.ids)
    shorter = prompter.tokens(turns, room=len(whole.ids) - 1)
    assert shorter.ids == prompter.tokens(turns[:1]).ids


def test_workers_draw_into_shared_memory(text):
    with drawn(TINY, text / "tokenizer.json", workers=2) as chunks:
        pixels = [next(chunks).arrays["pixels"].copy() for _ in range(3)]
    assert all(array.shape == (TINY.scenes_a_chunk, 160, 160, 3) for array in pixels)
    assert not np.array_equal(pixels[0], pixels[1])


def test_a_fixed_chunk_is_always_the_same(text):
    first, second = (
        fixed_chunk(TINY, text / "tokenizer.json", seed=3, split=Split.HELD_OUT) for _ in range(2)
    )
    assert all(np.array_equal(first.arrays[name], second.arrays[name]) for name in first.arrays)
