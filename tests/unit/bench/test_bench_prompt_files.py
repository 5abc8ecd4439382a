"""Prompts out of files of every kind, and what is said of those that can't be used."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.bench.plan import PromptKind
from core.bench.prompt_files import prompt_kind, read_prompts
from core.bench.workload import keep_prompt_file, listed_prompts
from core.domain.conversation import Role
from core.errors import InputError


@pytest.fixture
def read(tmp_path):
    """read("p.jsonl", content) → the prompts and what was left out."""

    def read(name, content):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass"))
        return read_prompts(prompt_kind(name), path)

    return read


def refused(read, name, content):
    with pytest.raises(InputError) as caught:
        read(name, content)
    assert caught.value.code == "prompt-file"
    assert name in caught.value.message
    return caught.value.message


def texts(found):
    return [prompt[-1].content for prompt in found.prompts]


def lines(*documents):
    return "\n".join(json.dumps(document, ensure_ascii=False) for document in documents)


@pytest.mark.parametrize("separator", ["\u2028", "\u2029", "\u0085", "\f", "\v", "\x1c", "\x1e"])
def test_only_line_ends_end_a_line(read, separator):
    assert texts(read("p.txt", f"one{separator}two\nthree\r\n")) == [f"one{separator}two", "three"]
    document = json.dumps({"prompt": f"a{separator}b"}, ensure_ascii=False).encode()
    assert texts(read("p.jsonl", document.replace(b"\\f", b"\\f") + b"\n")) == [f"a{separator}b"]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_files_of_other_systems(read, encoding):
    assert texts(read("p.txt", "你好\r\ntwo".encode(encoding))) == ["你好", "two"]


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ("plain", "plain"),
        ({"prompt": "a"}, "a"),
        ({"text": "a"}, "a"),
        ({"question": "a"}, "a"),
        ({"instruction": "a", "output": "b"}, "a"),
        ({"instruction": "Translate.", "input": "cat", "output": "Katze"}, "Translate.\n\ncat"),
        ({"instruction": "a", "input": " ", "output": "b"}, "a"),
        ({"instruction": "a", "input": None}, "a"),
        ({"messages": [{"role": "user", "content": "a"}]}, "a"),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}]}]}, "a"),
        ([{"role": "user", "content": "a"}], "a"),
        ({"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]}, "a"),
        ({"prompt": "half \ud83d here"}, "half \ufffd here"),
    ],
)
def test_a_line_of_jsonl_in_any_known_shape(read, document, said):
    assert texts(read("p.jsonl", json.dumps(document))) == [said]
    assert texts(read("p.ndjson", json.dumps(document))) == [said]


def test_instructions_and_their_inputs_in_columns(read):
    rows = "instruction,input,output\nTranslate.,cat,Katze\nSay hi.,,Hi\nShort\n"
    assert texts(read("p.csv", rows)) == ["Translate.\n\ncat", "Say hi.", "Short"]


def test_roles_of_other_apis(read):
    conversation = [("developer", "Be brief."), ("user", "Hi"), ("assistant", "Hello"), ("user", "Who?")]
    document = {"messages": [{"role": role, "content": text} for role, text in conversation]}
    (prompt,) = read("p.jsonl", lines(document)).prompts
    assert [message.role for message in prompt] == [Role.SYSTEM, Role.USER, Role.ASSISTANT, Role.USER]


def test_a_conversation_that_ends_with_the_assistant_is_cut_and_said_so(read):
    document = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]}
    found = read("p.jsonl", lines(document, "next"))
    assert [len(prompt) for prompt in found.prompts] == [1, 1]
    assert found.remarks() == ["1 conversation cut after its last question"]


def test_blank_prompts_are_left_out_and_counted(read):
    documents = [{"prompt": "  "}, {"messages": [{"role": "user", "content": None}]}, "a"]
    found = read("p.jsonl", lines(*documents))
    assert texts(found) == ["a"]
    assert found.remarks() == ["2 without a question left out"]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{broken", "line 2: it is not valid JSON"),
        ("[" * 100_000, "line 2: it is not valid JSON"),
        ("7", "line 2: it is neither text nor an object"),
        ('{"answer": "a"}', "line 2: it has none of prompt, text, messages"),
        ('{"prompt": 3}', "line 2: prompt is not text"),
        ('{"messages": []}', "line 2: it has no messages"),
        ('{"messages": 3}', "line 2: its messages are not a list"),
        ('{"messages": ["a"]}', "line 2: message 1 is not an object"),
        ('{"messages": [{"role": "user", "content": "a"}, {"role": "king", "content": "b"}]}',
         "line 2: message 2 has the unknown role king"),
        ('{"messages": [{"content": "b"}]}', "line 2: message 1 has the unknown role"),
        ('{"messages": [{"role": "user", "content": 5}]}', "line 2: message 1 is not text"),
        ('{"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}', "message 1 is not text"),
        ('{"messages": [{"role": "system", "content": "a"}]}', "line 2: it has no message from the user"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_with_its_line_and_part(read, line, reason):
    assert reason in refused(read, "p.jsonl", f'"fine"\n{line}\n')


def test_bytes_that_are_no_text_are_told_with_their_line(read):
    assert "line 3 is not UTF-8" in refused(read, "p.txt", b"one\ntwo\n\xff\n")


def test_json_lists_of_conversations(read):
    documents = [
        {
            "conversations": [
                {"from": "system", "value": "S"},
                {"from": "human", "value": "Hi"},
                {"from": "gpt"},
            ]
        },
        {"conversations": []},
        {"conversations": [{"from": "gpt", "value": "Hello"}]},
        {"prompt": "plain"},
    ]
    found = read("p.json", json.dumps(documents))
    assert texts(found) == ["Hi", "plain"]
    assert found.prompts[0][0].role is Role.SYSTEM
    assert found.remarks() == ["2 without a question left out"]
    assert texts(read("p.json", json.dumps({"data": ["a"]}))) == ["a"]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("{", "line 1, column 2 is not valid JSON"),
        ("7", "not a list"),
        ('{"a": 1}', "not a list"),
        ("[1]", "item 1: it is neither"),
        ("[]", "contains no prompts"),
    ],
)
def test_json_that_is_no_list_of_prompts(read, content, reason):
    assert reason in refused(read, "p.json", content)


def test_csv_reads_its_prompt_column(read):
    table = 'id,Prompt,answer\n1,"one, with a comma\nand a line",x\n2,,y\n3,three,z\n'
    found = read("p.csv", table)
    assert texts(found) == ["one, with a comma\nand a line", "three"]
    assert found.remarks() == ["1 without a question left out"]
    assert texts(read("p.csv", "a;question\n1;Wer?\n")) == ["Wer?"]
    assert texts(read("p.tsv", "text\tb\none\t2\n")) == ["one"]


def test_csv_without_such_a_column_names_those_it_has(read):
    message = refused(read, "p.csv", "id,answer\n1,2\n")
    assert "id, answer" in message
    assert "prompt" in message


@pytest.mark.parametrize("name", ["p.xlsx", "p.parquet", "p.jsonl.gz", "p.exe"])
def test_unknown_endings_are_refused(name):
    with pytest.raises(InputError) as caught:
        prompt_kind(name)
    assert ".jsonl" in caught.value.hint


def test_endings_in_capitals_and_none():
    assert prompt_kind("P.JSONL") is PromptKind.JSONL
    assert prompt_kind("prompts") is PromptKind.TEXT


def test_an_upload_with_an_unknown_ending_is_not_kept(settings):
    with pytest.raises(InputError):
        keep_prompt_file(settings, "p.xlsx", b"x")
    assert not list((settings.home / "prompts").glob("*"))


@given(
    kind=st.sampled_from(["p.txt", "p.jsonl", "p.json", "p.csv"]),
    content=st.one_of(
        st.binary(max_size=80),
        st.text(max_size=80).map(str.encode),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.text(max_size=5),
            lambda inner: (
                st.lists(inner, max_size=3)
                | st.dictionaries(
                    st.sampled_from(
                        ["prompt", "messages", "role", "content", "conversations", "from", "value"]
                    ),
                    inner,
                    max_size=3,
                )
            ),
            max_leaves=8,
        ).map(lambda document: json.dumps(document).encode()),
    ),
)
def test_any_file_is_read_or_refused(tmp_path_factory, kind, content):
    path = tmp_path_factory.mktemp("any") / kind
    path.write_bytes(content)
    try:
        found = read_prompts(prompt_kind(kind), path)
    except InputError:
        return
    assert found.prompts
    for prompt in found.prompts:
        assert prompt[-1].role is Role.USER
        assert prompt[-1].content.strip()
        prompt[-1].content.encode()


def test_the_ending_says_how_a_file_is_read():
    assert prompt_kind("a.jsonl") is PromptKind.JSONL
    assert prompt_kind("a.JSON") is PromptKind.SHAREGPT
    assert prompt_kind("a.txt") is PromptKind.TEXT


def kept(settings):
    return sorted(path.name for path in (settings.home / "prompts").rglob("*") if path.is_file())


@pytest.mark.parametrize(
    ("name", "data", "kind"),
    [
        ("mine.txt", b"one\ntwo\n", PromptKind.TEXT),
        ("mine.JSONL", b'"one"\n{"prompt": "two"}\n', PromptKind.JSONL),
        (
            "share.json",
            json.dumps([{"conversations": [{"from": "human", "value": f"{n}"}]} for n in "12"]).encode(),
            PromptKind.SHAREGPT,
        ),
    ],
)
def test_a_file_is_kept_for_the_run(settings, name, data, kind):
    workload = keep_prompt_file(settings, name, data)
    assert workload.prompts is kind
    assert listed_prompts(workload).label == f"2 prompts from {name}, in order"
    assert keep_prompt_file(settings, name, data) == workload
    assert len(kept(settings)) == 1


def test_a_file_without_prompts_is_refused_by_its_own_name(settings):
    with pytest.raises(InputError, match=r"Can't use the prompts in broken\.jsonl: line 1") as caught:
        keep_prompt_file(settings, "broken.jsonl", b"{}\n")
    assert caught.value.code == "prompt-file"
    with pytest.raises(InputError, match="contains no prompts"):
        keep_prompt_file(settings, "empty.txt", b"\n")
    assert kept(settings) == []


@pytest.mark.parametrize("name", ["../../etc/passwd.txt", "/abs/passwd.txt", "..", "a b\x00.txt", "х" * 300])
def test_a_name_never_leads_out_of_the_folder(settings, name):
    keep_prompt_file(settings, name, b"one\n")
    (path,) = (settings.home / "prompts").glob("*/*")
    assert path.resolve().parent.parent == (settings.home / "prompts").resolve()
