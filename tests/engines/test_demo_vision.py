"""The demo vision model itself, in transformers on the CPU: it sees, and engines are told what it takes."""

import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from scenes.drawing import draw
from scenes.exam import exam
from scenes.gallery import scene, shape
from scenes.scoring import is_right
from transformers import AutoProcessor, LlavaForConditionalGeneration

from core.config import VISION_DEMO_NAME, demo_vision_model
from core.domain.specs import EngineKind
from core.models import demo_models
from core.models.vision import CHAT_TEMPLATE_FILE, vision_of
from core.settings import load_settings


@pytest.fixture(scope="module")
def real():
    """The shipped weights over the demo weights, in transformers."""
    model = demo_models.prepare_vision(load_settings(), lambda line: None)
    torch.manual_seed(0)
    loaded = LlavaForConditionalGeneration.from_pretrained(model.checkpoint, dtype=torch.float32).eval()
    return loaded, AutoProcessor.from_pretrained(model.checkpoint), model


def answers(real, image, *questions: str) -> list[str]:
    """Greedy answers to questions in a row about one image."""
    loaded, processor, _ = real
    messages: list[dict] = []
    given = []
    for number, question in enumerate(questions):
        content = [{"type": "image", "image": image}] if number == 0 else []
        messages.append({"role": "user", "content": [*content, {"type": "text", "text": question}]})
        inputs = processor.apply_chat_template(
            messages, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
        )
        ids = loaded.generate(**inputs, do_sample=False, max_new_tokens=12)
        given.append(processor.decode(ids[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))
        messages.append({"role": "assistant", "content": [{"type": "text", "text": given[-1]}]})
    return given


def test_the_image_really_reaches_the_model(real):
    """The same questions, another image: the answers follow the image."""

    questions = ("What shape is this?", "What color is it?", "Where is it?")
    heart = draw(scene("white", shape("green", "heart", 0.2, 0.8, "large")), 480, 480)
    square = draw(scene("black", shape("yellow", "square", 0.8, 0.2, "large")), 300, 300)
    assert answers(real, heart, *questions) == ["heart", "green", "bottom left"]
    assert answers(real, square, *questions) == ["square", "yellow", "top right"]


def test_it_answers_held_out_questions(real):

    items = [item for item in exam(12) if item.topic in ("color", "shape", "position")]
    picked = random.Random(0).sample(items, 12)
    right = [
        is_right(answers(real, draw(item.scene), item.question.text)[0], item.question.answers)
        for item in picked
    ]
    assert sum(right) >= 10


def test_engines_are_told_what_it_takes(real):
    model = real[2]
    vision = vision_of(model.checkpoint)
    assert vision is not None
    assert vision.served_by >= {EngineKind.TRANSFORMERS, EngineKind.PYTORCH}
    assert vision.lmdeploy_chat_template == str(Path(model.checkpoint) / CHAT_TEMPLATE_FILE)
    assert vision.cost(480, 300).tokens == 100
    assert model == replace(demo_vision_model(load_settings()), name=VISION_DEMO_NAME)
