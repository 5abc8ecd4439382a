"""InternLM2 as Llama: the same logits, the same tokens, no remote code, and no silent half-conversion."""

import json
from pathlib import Path

import pytest
import sentencepiece
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from core.errors import InputError, ModelError
from core.models import internlm2
from core.settings import load_settings
from tests.engines import internlm2_checkpoint as tiny

DYNAMIC = {"type": "dynamic", "factor": 2.0}
LINEAR = {"type": "linear", "factor": 4.0}


@pytest.fixture
def source(tmp_path):
    return tmp_path / "internlm2-tiny"


@pytest.fixture
def converted(tmp_path):
    folder = tmp_path / "converted"
    folder.mkdir()
    return folder


def largest_difference(folder: Path, weights: dict, scaling: dict | None, length: int = 24) -> float:
    model = AutoModelForCausalLM.from_pretrained(folder)
    ids = torch.randint(0, tiny.VOCAB_SIZE, (length,))
    with torch.inference_mode():
        found = model(ids[None]).logits[0]
    expected = tiny.logits(weights, ids, scaling)
    assert expected.std() > 0.5
    return (found - expected).abs().max().item()


@pytest.mark.parametrize("scaling", [None, DYNAMIC, LINEAR], ids=["plain", "dynamic", "linear"])
def test_the_converted_checkpoint_has_the_originals_logits(source, converted, scaling):
    """24 tokens are more than the 16 of `max_position_embeddings`, so that dynamic scaling shows."""
    weights = tiny.write(source, scaling=scaling)
    internlm2.write_llama(source, converted)
    assert largest_difference(converted, weights, scaling) < 1e-4


def test_the_scaling_and_the_order_in_wqkv_matter(source, converted):
    """The test above can fail: another scaling, or another order of the heads, gives other logits."""
    weights = tiny.write(source, scaling=DYNAMIC)
    internlm2.write_llama(source, converted)
    assert largest_difference(converted, weights, None) > 1e-2
    for name, tensor in weights.items():
        if "wqkv" in name:
            weights[name] = tensor.roll(8, dims=0)
    assert largest_difference(converted, weights, DYNAMIC) > 1e-2


@pytest.mark.parametrize(("shards", "files"), [("bin", 1), ("two", 2)])
def test_pytorch_files_and_shards_give_the_same(source, converted, shards, files):
    weights = tiny.write(source, shards=shards)
    internlm2.write_llama(source, converted)
    assert len(list(converted.glob("*.safetensors"))) == files
    assert largest_difference(converted, weights, None) < 1e-4


def test_config_and_generation_config_end_where_the_chat_ends(source, converted):
    tiny.write(source, scaling=DYNAMIC)
    internlm2.write_llama(source, converted)
    config = json.loads((converted / "config.json").read_text())
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert config["rope_parameters"] == {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1_000_000.0}
    assert config["dtype"] == "float32"
    assert "auto_map" not in config
    generation = json.loads((converted / "generation_config.json").read_text())
    assert generation["eos_token_id"] == config["eos_token_id"] == [2, 5]


def test_a_program_in_a_pickle_is_not_run(source, converted, tmp_path):
    class Program:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "ran",))

    tiny.write(source)
    (source / "model.safetensors").unlink()
    torch.save({"output.weight": Program()}, source / "pytorch_model.bin")
    with pytest.raises(Exception, match=r"[Ww]eights.only"):
        internlm2.write_llama(source, converted)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda weights: weights.pop("model.norm.weight"), "has no model.norm.weight"),
        (lambda weights: weights.update({"output.bias": torch.zeros(3)}), "output.bias is no tensor"),
        (lambda weights: weights.update({"model.layers.0.x.weight": torch.zeros(3)}), "is no tensor"),
        (lambda weights: weights.update({"model.norm.weight": torch.zeros(3)}), r"with the shape \(3,\)"),
    ],
)
def test_other_tensors_than_expected_end_it(source, converted, change, message):
    weights = tiny.write(source)
    change(weights)
    tiny.write_shards(source, weights, "safetensors")
    with pytest.raises(SystemExit, match=message):
        internlm2.write_llama(source, converted)


TEXTS = [
    *tiny.TEXT[:4],
    *internlm2._SAMPLES,
    "user\nWhat is it?",
    " leading and trailing ",
    "",
    "the\u3000Ｗｉｄｅ ﬁ ①",
]


@pytest.mark.parametrize(
    "training",
    [
        {},
        {"add_dummy_prefix": True, "remove_extra_whitespaces": True, "normalization_rule_name": "nmt_nfkc"},
        {"split_digits": True, "byte_fallback": False, "vocab_size": 240},
    ],
    ids=["as InternLM2", "SentencePiece's defaults", "without bytes"],
)
def test_the_fast_tokenizer_encodes_and_decodes_like_sentencepiece(source, training):
    source.mkdir()
    (source / "config.json").write_text('{"max_position_embeddings": 64}')
    tiny.write_tokenizer(source, **training)
    tokenizer = internlm2.build_tokenizer(source)
    reference = sentencepiece.SentencePieceProcessor(model_file=str(source / "tokenizer.model"))
    for text in TEXTS:
        ids = reference.encode(text)
        assert tokenizer.encode(text, add_special_tokens=False) == ids, text
        if "⁇" not in (decoded := reference.decode(ids)):
            assert tokenizer.decode(ids) == decoded


def test_symbols_of_the_sentencepiece_model_stay_whole(source):
    source.mkdir()
    (source / "config.json").write_text('{"max_position_embeddings": 64}')
    tiny.write_tokenizer(source)
    tokenizer = internlm2.build_tokenizer(source)
    reference = sentencepiece.SentencePieceProcessor(model_file=str(source / "tokenizer.model"))
    text = "a [UNUSED_TOKEN_5] b[UNUSED_TOKEN_4]"
    assert tokenizer.encode(text, add_special_tokens=False) == reference.encode(text)
    assert tokenizer.decode(reference.encode(text), skip_special_tokens=True) == text


def test_a_saved_tokenizer_knows_the_chat(source, converted):
    tiny.write(source)
    internlm2.write_llama(source, converted)
    tokenizer = AutoTokenizer.from_pretrained(converted)
    messages = [{"role": "system", "content": "Be short."}, {"role": "user", "content": "法国的首都?"}]
    prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    assert prompt == (
        "<s><|im_start|>system\nBe short.<|im_end|>\n"
        "<|im_start|>user\n法国的首都?<|im_end|>\n<|im_start|>assistant\n"
    )
    ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True)["input_ids"]
    assert (ids[0], ids.count(1), ids.count(6), ids.count(5)) == (1, 1, 3, 2)
    assert tokenizer.encode("is")[0] == 1
    assert tokenizer.convert_ids_to_tokens([3, 4, 5, 6]) == list(tiny.CHAT_TOKENS)
    assert tokenizer.decode(ids, skip_special_tokens=True).startswith("system\nBe short.\nuser")


def test_a_chat_template_of_the_checkpoint_is_kept(source, converted):
    tiny.write(source)
    settings = json.loads((source / "tokenizer_config.json").read_text())
    (source / "tokenizer_config.json").write_text(json.dumps(settings | {"chat_template": "mine"}))
    internlm2.write_llama(source, converted)
    assert AutoTokenizer.from_pretrained(converted).chat_template == "mine"


def test_without_a_list_the_chat_models_tokens_get_their_ids():
    found = internlm2._special_tokens({}, 92_544)
    assert {number: token.content for number, token in found.items()} == internlm2._CHAT_TOKENS
    assert internlm2._special_tokens({}, 32_000) == {}


def test_a_tokenizer_that_would_differ_ends_it(source, monkeypatch):
    source.mkdir()
    (source / "config.json").write_text('{"max_position_embeddings": 64}')
    tiny.write_tokenizer(source)
    monkeypatch.setattr(internlm2, "_merges", lambda scores: [])
    with pytest.raises(SystemExit, match=r"otherwise than tokenizer\.model"):
        internlm2.build_tokenizer(source)


@pytest.fixture
def settings(tmp_path):
    return load_settings({"LMDYNO_HOME": str(tmp_path / "home")})


def test_converting_is_done_once_by_a_child_process(settings, source):
    tiny.write(source)
    said: list[str] = []
    spec = internlm2.convert(settings, source, report=said.append)
    assert spec.name == "internlm2-tiny-llama"
    assert Path(spec.checkpoint) == settings.models_dir / "internlm2-tiny-llama"
    assert "Converting shard 1 of 1" in said
    note = json.loads((Path(spec.checkpoint) / "provenance.json").read_text())
    assert note["source"]["checkpoint"] == "internlm2-tiny"
    assert note["versions"]["torch"] == torch.__version__.split("+")[0]

    before = (Path(spec.checkpoint) / "config.json").stat().st_mtime_ns
    assert internlm2.convert(settings, source, report=said.append) == spec
    assert (Path(spec.checkpoint) / "config.json").stat().st_mtime_ns == before


def test_a_taken_name_is_refused(settings, source):
    tiny.write(source)
    (settings.models_dir / "mine").mkdir(parents=True)
    with pytest.raises(InputError, match="already exists") as caught:
        internlm2.convert(settings, source, name="mine", report=lambda line: None)
    assert caught.value.code == "name-taken"
    with pytest.raises(InputError, match="not a valid model name"):
        internlm2.convert(settings, source, name="../mine", report=lambda line: None)


def test_a_failing_child_leaves_nothing(settings, source, monkeypatch):
    def fail(module, arguments, log_file, report):
        (Path(arguments[1]) / "config.json").touch()
        raise ModelError("broken")

    tiny.write(source)
    monkeypatch.setattr(internlm2, "run_child", fail)
    with pytest.raises(ModelError, match="broken"):
        internlm2.convert(settings, source, report=lambda line: None)
    assert list(settings.models_dir.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "code", "message"),
    [
        ({"model_type": "llama"}, "not-internlm2", "is not an InternLM2"),
        ({"bias": True}, "internlm2-variant", "biases"),
        ({"rope_scaling": {"type": "yarn", "factor": 2.0}}, "internlm2-variant", '"yarn"'),
    ],
)
def test_what_would_convert_wrongly_is_refused_before_any_work(source, change, code, message):
    tiny.write(source)
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(InputError, match=message) as caught:
        internlm2.plan(source)
    assert caught.value.code == code


@pytest.mark.parametrize("missing", ["tokenizer.model", "model-00002-of-00002.safetensors"])
def test_a_missing_file_is_named(source, missing):
    tiny.write(source, shards="two")
    (source / missing).unlink()
    with pytest.raises(InputError, match=f"{missing} is missing from") as caught:
        internlm2.plan(source)
    assert caught.value.code == "model-incomplete"


def test_folders_without_a_config_are_not_internlm2(tmp_path):
    assert not internlm2.is_internlm2(tmp_path)
    (tmp_path / "config.json").write_text("{broken")
    assert not internlm2.is_internlm2(tmp_path)
