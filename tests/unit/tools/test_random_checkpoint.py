"""Random checkpoints: what is written is what engines read, for text and for vision models."""

import importlib
import json
import sys
from pathlib import Path

import pytest
from safetensors.numpy import load_file
from tokenizers import Tokenizer, decoders
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel

from core.models.checkpoint import read_checkpoint
from core.models.vision import vision_of

TOOLS = Path(__file__).resolve().parents[3] / "tools"
WORDS = ("Ġred", "Ġblue", "Ġcat")


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    """A byte-level BPE tokenizer: a special token, all bytes, and a few words with the merges to them."""
    folder = tmp_path_factory.mktemp("tokenizer")
    tokens = ["<|endoftext|>", *sorted(ByteLevel.alphabet())]
    merges = []
    for word in WORDS:
        for end in range(2, len(word) + 1):
            if word[:end] not in tokens:
                tokens.append(word[:end])
                merges.append((word[: end - 1], word[end - 1]))
    made = Tokenizer(BPE({token: number for number, token in enumerate(tokens)}, merges))
    made.pre_tokenizer = ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens(["<|endoftext|>"])
    made.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "TokenizersBackend"}', "utf-8")
    return folder


@pytest.fixture
def tool(monkeypatch):
    """A module of the tools' folder, which is on the path as it is for a script there."""
    monkeypatch.syspath_prepend(str(TOOLS))
    return importlib.import_module


@pytest.fixture
def write(tool, tokenizer, tmp_path, monkeypatch):
    def run(name, *more):
        arguments = [name, "--tokenizer", str(tokenizer), "--out", str(tmp_path), *more]
        monkeypatch.setattr(sys, "argv", ["random_checkpoint.py", *arguments])
        tool("random_checkpoint").main()
        config = json.loads((tmp_path / "config.json").read_text("utf-8"))
        return load_file(tmp_path / "model.safetensors"), config

    return run


def test_weights_are_random_and_no_silent_token_wins(write, tmp_path):
    weights, config = write("tiny")
    rows = weights["model.layers.1.mlp.down_proj.weight"]
    assert rows.shape == (config["hidden_size"], config["intermediate_size"])
    assert rows.std() == pytest.approx(0.02, rel=0.05)
    assert (rows[0] == rows[1]).mean() < 0.1
    assert (weights["model.norm.weight"] == 1).all()
    head = weights["lm_head.weight"]
    known = json.loads((tmp_path / "tokenizer.json").read_text("utf-8"))["model"]["vocab"]
    assert head[known["a"]].any()
    assert not head[known["<|endoftext|>"]].any()
    assert not head[known["Ġ"]].any()
    assert not head[len(known) :].any()
    assert read_checkpoint(str(tmp_path)).weight_bytes >= rows.nbytes


def test_awq_weights_are_packed(write):
    weights, config = write("tiny", "--awq")
    packed = weights["model.layers.0.mlp.up_proj.qweight"]
    assert packed.dtype == "int32"
    assert packed.shape == (config["hidden_size"], config["intermediate_size"] // 8)
    assert (weights["model.layers.0.mlp.up_proj.scales"] > 0).mean() > 0.99
    assert config["quantization_config"]["quant_method"] == "awq"


def test_a_llava_has_the_hubs_names_and_tells_its_cost(write, tmp_path):
    weights, config = write("tiny-llava")
    assert "vision_tower.vision_model.embeddings.class_embedding" in weights
    assert "language_model.lm_head.weight" in weights
    assert config["text_config"]["architectures"] == ["LlamaForCausalLM"]
    added = json.loads((tmp_path / "tokenizer.json").read_text("utf-8"))["added_tokens"]
    ids = {token["content"]: token["id"] for token in added}
    assert (config["image_token_index"], config["pad_token_id"]) == (ids["<image>"], ids["<pad>"])
    assert vision_of(str(tmp_path)).cost(640, 480).tokens == 16


def test_a_qwen_vl_takes_pictures_at_their_own_size(write, tmp_path):
    weights, config = write("tiny-qwen2.5-vl")
    assert weights["visual.blocks.0.attn.qkv.weight"].shape == (480, 160)
    assert "lm_head.weight" not in weights
    assert config["tie_word_embeddings"]
    tokenizer = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert tokenizer.encode("<|image_pad|> red").ids[0] == config["image_token_id"]
    assert vision_of(str(tmp_path)).cost(280, 140).tokens == 52


def test_a_vocabulary_that_is_cut_still_reads_every_text(tool, tokenizer, tmp_path):
    tool("random_vision")._write_tokenizer(tokenizer, tmp_path, ("<image>",), "", pad="<image>", limit=260)
    cut = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert cut.get_vocab_size() == 261
    assert cut.token_to_id("<image>") == 260
    ids = cut.encode("a red cat").ids
    assert max(ids) < 260
    assert "".join(cut.id_to_token(number) for number in ids) == "aĠredĠcat"
