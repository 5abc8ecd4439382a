"""The assembled checkpoint computes what was trained, from the same tokens and pixels in every engine."""

import json
import random

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from scenes.drawing import draw
from scenes.scene import Split, random_scene
from scenes_llava.prompts import Prompter, Turn
from scenes_llava.recipe import TINY
from transformers import AutoProcessor, LlavaForConditionalGeneration

from core.models import demo_checkpoints
from core.models.demo_checkpoints import IMAGE_TOKEN_ID
from core.models.vision import CHAT_TEMPLATE_FILE
from tests.engines.demo_vision_tiny import write_tiny_shipped, write_tiny_text

RNG = random.Random(1)
IMAGES = [
    draw(random_scene(RNG, Split.TRAIN), width, height)
    for width, height in ((160, 160), (300, 200), (97, 411))
]

DIALOGUES = {
    "one image": [("user", [0], "What color is the star?")],
    "a system prompt and a follow-up": [
        ("system", [], "Answer briefly."),
        ("user", [1], "How many?"),
        ("assistant", [], "3"),
        ("user", [], "Where is it?"),
    ],
    "two images, and another one later": [
        ("user", [0, 2], "Compare. The two: "),
        ("assistant", [], "red"),
        ("user", [1], "And\nthis? 12"),
        ("assistant", [], 'The word "cat".'),
        ("user", [], "ok"),
    ],
    "text alone": [("user", [], "Hello!"), ("assistant", [], "Hi."), ("user", [], "Who are you?")],
}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """The model in training, and the folder of the checkpoint made from what it ships."""
    home = tmp_path_factory.mktemp("tiny")
    text, shipped, folder = home / "text", home / "shipped", home / "scenes-llava"
    for path in (text, shipped, folder):
        path.mkdir()
    write_tiny_text(text)
    model = write_tiny_shipped(text, shipped)
    demo_checkpoints.assemble(shipped, text, folder)
    return model, text, folder


@pytest.fixture(scope="module")
def processor(tiny):
    return AutoProcessor.from_pretrained(tiny[2])


def hf_messages(dialogue):
    return [
        {
            "role": role,
            "content": [
                *({"type": "image", "image": IMAGES[number]} for number in images),
                {"type": "text", "text": text},
            ],
        }
        for role, images, text in dialogue
    ]


def hf_inputs(processor, dialogue):
    return processor.apply_chat_template(
        hf_messages(dialogue),
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
    )


def test_transformers_loads_every_weight_and_gets_the_logits_of_the_model_in_training(tiny, processor):
    model, text, folder = tiny
    loaded, info = LlavaForConditionalGeneration.from_pretrained(
        folder, dtype=torch.float32, output_loading_info=True
    )
    assert not any(info.values())
    question = "What color is the star?"
    inputs = hf_inputs(processor, [("user", [0], question)])
    prompter = Prompter(text / "tokenizer.json", TINY.image_tokens)
    ids = [*prompter.tokens([]).ids, *prompter.question_ids(Turn(1, question, ""))]
    assert inputs["input_ids"][0].tolist() == ids
    with torch.no_grad():
        found = loaded.eval()(**inputs).logits[0]
        features = model.features(torch.from_numpy(np.array(IMAGES[0]))[None])
        expected = model.logits(model.hidden(torch.tensor([ids]), features))[0]
    assert (found - expected).abs().max() < 1e-2 * expected.abs().max()


def test_padded_dimensions_stay_zero(tiny):
    weights = load_file(tiny[2] / "model.safetensors")
    projector = weights["multi_modal_projector.linear_2.weight"]
    assert projector.shape == (384, 384)
    assert not projector[96:].any()
    assert not projector[:, 96:].any()
    assert not weights["language_model.model.layers.0.mlp.down_proj.weight"][96:].any()


def test_the_adapter_is_merged(tiny):
    _, text, folder = tiny
    before, after = load_file(text / "model.safetensors"), load_file(folder / "model.safetensors")
    name = "model.layers.1.self_attn.q_proj.weight"
    assert (after[f"language_model.{name}"] - before[name]).abs().max() > 0.01
    assert torch.equal(after["language_model.lm_head.weight"], before["lm_head.weight"])


def test_names_are_the_hubs(tiny):
    """transformers' own names make LMDeploy's loader stop with a KeyError."""
    names = load_file(tiny[2] / "model.safetensors").keys()
    prefixes = ("vision_tower.vision_model.", "multi_modal_projector.", "language_model.model.")
    assert {name for name in names if not name.startswith(prefixes)} == {"language_model.lm_head.weight"}
    config = json.loads((tiny[2] / "config.json").read_text("utf-8"))
    assert config["text_config"]["architectures"] == ["LlamaForCausalLM"]
    assert config["pad_token_id"] == config["image_token_index"] == IMAGE_TOKEN_ID


def test_shipped_files_of_another_format_are_refused(tiny, tmp_path):
    (tmp_path / "architecture.json").write_text('{"format": 99}', "utf-8")
    with pytest.raises(SystemExit, match="format 99"):
        demo_checkpoints.assemble(tmp_path, tiny[1], tmp_path)


def test_a_tokenizer_without_the_unused_token_is_refused():
    with pytest.raises(ValueError, match="16"):
        demo_checkpoints.with_image_token({"model": {"vocab": {"a": 0}}, "added_tokens": []})


@pytest.mark.parametrize("name", DIALOGUES)
def test_plain_strings_and_parts_give_the_same_prompt(processor, name):
    dialogue = [(role, [], text) for role, _, text in DIALOGUES[name]]
    plain = [{"role": role, "content": text} for role, _, text in dialogue]
    as_parts = processor.apply_chat_template(hf_messages(dialogue), tokenize=False)
    assert processor.tokenizer.apply_chat_template(plain, tokenize=False) == as_parts


@pytest.mark.parametrize("name", DIALOGUES)
@pytest.mark.parametrize("template", ["file", "own"])
def test_lmdeploy_gets_the_same_tokens_and_pixels(tiny, processor, name, template):
    """By LMDeploy's own preparation of a request for its PyTorch engine, which needs no GPU."""
    pytest.importorskip("lmdeploy")
    from lmdeploy.model import ChatTemplateConfig, get_chat_template
    from lmdeploy.tokenizer import Tokenizer
    from lmdeploy.vl.model.llava_hf import LlavaHfVisionModel

    folder = str(tiny[2])
    file = f"{folder}/{CHAT_TEMPLATE_FILE}"
    chat_template = get_chat_template(
        folder, ChatTemplateConfig.from_json(file) if template == "file" else None
    )
    dialogue = DIALOGUES[name]
    expected = hf_inputs(processor, dialogue)
    ids = expected["input_ids"][0].tolist()
    if not any(images for _, images, _ in dialogue):
        plain = [{"role": role, "content": text} for role, _, text in dialogue]
        assert Tokenizer(folder).encode(chat_template.messages2prompt(plain)) == ids
        return
    vision = LlavaHfVisionModel(folder, backend="pytorch")
    vision.build_preprocessor()
    prepared = vision.to_pytorch(
        vision.preprocess(lmdeploy_messages(dialogue)), chat_template, Tokenizer(folder)
    )
    assert prepared["input_ids"] == ids
    pixels = torch.cat([image["pixel_values"] for image in prepared["multimodal"]])
    assert torch.equal(pixels, expected["pixel_values"])
    assert vision.image_token_id == IMAGE_TOKEN_ID


def lmdeploy_messages(dialogue):
    def content(images: list[int], text: str):
        shown = [{"type": "image", "data": IMAGES[number]} for number in images]
        return [*shown, {"type": "text", "text": text}] if images else text

    return [{"role": role, "content": content(images, text)} for role, images, text in dialogue]


@pytest.mark.parametrize("mode", ["L", "RGBA"])
def test_other_pixel_formats_become_rgb(processor, mode):
    inputs = processor.image_processor(Image.new(mode, (64, 32), 128), return_tensors="pt")
    assert inputs["pixel_values"].shape == (1, 3, TINY.image_px, TINY.image_px)
