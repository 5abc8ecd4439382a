import json

import pytest

from core.bench.planning.plan import PromptKind, Workload
from core.bench.prompts import COMMON_WORDS, SyntheticPrompts, listed_prompts, words_for
from core.domain.conversation import Message, Role
from core.errors import InputError
from core.models.tokenizer import LaneTokenizer

tokenizers = pytest.importorskip("tokenizers")


def synthetic(length, *, run_id="r1", seed=0):
    return SyntheticPrompts(COMMON_WORDS, length, label="", seed=seed, run_id=run_id)


def text(prompts, number):
    (message,) = prompts.messages(number)
    return message.content


@pytest.mark.parametrize("length", [1, 8, 9, 200])
def test_synthetic_prompts_are_as_long_as_asked(length):
    prompts = synthetic(length)
    assert {len(text(prompts, number).split()) for number in range(70)} == {length}


def test_no_two_prompts_begin_alike_in_or_between_runs():
    one, other = synthetic(64), synthetic(64, run_id="r2")
    beginnings = {" ".join(text(p, n).split()[:8]) for p in (one, other) for n in range(500)}
    assert len(beginnings) == 1000


def test_a_prompt_is_known_by_its_number():
    assert text(synthetic(64), 2**24 + 3) == text(synthetic(64), 2**24 + 3)
    assert text(synthetic(64), 3) != text(synthetic(64), 4)


def test_the_seed_changes_the_bodies():
    assert text(synthetic(64), 3).split()[8:] != text(synthetic(64, seed=1), 3).split()[8:]


@pytest.mark.parametrize(
    ("short", "long", "expected"),
    [
        ((8, 20), (136, 148), 100),
        ((8, 22), (136, 278), 50),
        ((8, 7), (136, 7), None),
        ((8, None), (136, 148), None),
    ],
)
def test_words_follow_the_servers_count_without_its_template(short, long, expected):
    assert words_for(100, short, long) == expected


def listed(kind, path):
    return listed_prompts(Workload(prompts=kind, path=str(path)))


def asked(content):
    return (Message(Role.USER, content),)


def test_a_text_file_has_a_prompt_a_line(tmp_path):
    (tmp_path / "p.txt").write_text("one\n\n  \ntwo\n", "utf-8")
    prompts = listed(PromptKind.TEXT, tmp_path / "p.txt")
    assert [prompts.messages(n) for n in range(3)] == [asked("one"), asked("two"), asked("one")]


def test_jsonl_takes_texts_and_objects(tmp_path):
    lines = [
        "plain",
        {"prompt": "with a key"},
        {"text": "with another"},
        {"messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]},
    ]
    (tmp_path / "p.jsonl").write_text("\n".join(json.dumps(line) for line in lines), "utf-8")
    prompts = listed(PromptKind.JSONL, tmp_path / "p.jsonl")
    assert [prompts.messages(n) for n in range(3)] == [
        asked("plain"),
        asked("with a key"),
        asked("with another"),
    ]
    assert [m.role for m in prompts.messages(3)] == [Role.SYSTEM, Role.USER]


def test_sharegpt_takes_what_a_human_said_first(tmp_path):
    conversations = [
        {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]},
        {"conversations": [{"from": "gpt", "value": "Hello"}, {"from": "user", "value": "Who?"}]},
        {"conversations": []},
    ]
    (tmp_path / "s.json").write_text(json.dumps(conversations), "utf-8")
    prompts = listed(PromptKind.SHAREGPT, tmp_path / "s.json")
    assert [prompts.messages(n) for n in range(3)] == [asked("Hi"), asked("Who?"), asked("Hi")]


def test_the_examples_need_no_file():
    prompts = listed_prompts(Workload(prompts=PromptKind.EXAMPLES))
    assert prompts.messages(0)[0].content


def test_synthetic_prompts_come_from_no_list():
    assert listed_prompts(Workload()) is None


@pytest.mark.parametrize(
    ("kind", "content"),
    [
        (PromptKind.TEXT, "\n \n"),
        (PromptKind.TEXT, None),
        (PromptKind.JSONL, "{}"),
        (PromptKind.JSONL, "not json"),
        (PromptKind.JSONL, '{"messages": [{"role": "king", "content": "Hi"}]}'),
        (PromptKind.JSONL, '{"prompt": 3}'),
        (PromptKind.SHAREGPT, "[1]"),
        (PromptKind.SHAREGPT, '{"a": 1}'),
    ],
)
def test_a_file_that_can_not_be_used_is_refused(tmp_path, kind, content):
    path = tmp_path / "p"
    if content is not None:
        path.write_text(content, "utf-8")
    with pytest.raises(InputError) as refused:
        listed(kind, path)
    assert refused.value.code == "prompt-file"


@pytest.fixture
def tokenizer_folder(tmp_path):
    """A byte-level BPE whose vocabulary has some whole words."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=700, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    words = COMMON_WORDS[:60]
    texts = [*words, *(f"the {word} the" for word in words * 3)]
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    return tmp_path


def test_prompts_of_a_tokenizers_words_have_exactly_that_many_tokens(tokenizer_folder):
    tokenizer = LaneTokenizer(tokenizer_folder)
    words = tokenizer.plain_words()
    assert len(words) > 20
    prompts = SyntheticPrompts(words, 100, label="", seed=0, run_id="r")
    assert {tokenizer.count(text(prompts, number)) for number in range(100)} == {100}


def test_a_folder_without_a_tokenizer_is_refused(tmp_path):
    with pytest.raises(InputError) as refused:
        LaneTokenizer(tmp_path)
    assert refused.value.code == "no-tokenizer"
