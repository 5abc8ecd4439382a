"""Exported runs as they come in: cut into pieces, checked by value, stored whole or not at all."""

import io
import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.access.guard import acting_as
from core.access.identity import Identity, Role
from core.bench.results.result import results
from core.domain.runs import RunKind
from core.errors import AccessDenied, InputError
from core.reports import exported_file
from core.reports.exported_file import ExportedFile
from core.reports.run_json import bench_from_json, bench_to_json, import_run
from core.store.runs import BenchRuns, QualityRuns
from tests.unit.bench.bench_samples import A, a_pass, a_plan, a_record, a_request

RAW = [("raw", "requests")]


def a_document(**changes):
    record = a_record(a_plan(A), [a_pass(0, ("a",))], [a_request(number) for number in range(3)])
    record = replace(record, run=replace(record.run, **changes))
    return json.loads(bench_to_json(results(record), record, raw=True))


def read(document):
    return bench_from_json(json.dumps(document).encode())


def pieces_of(file):
    return json.loads(file.head()), [json.loads(entry) for entry in file.entries()]


def pieces(text):
    return pieces_of(ExportedFile(io.BytesIO(text.encode()), RAW, what="It"))


plain = (
    st.none()
    | st.booleans()
    | st.integers(-(2**62), 2**62)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=12)
)
values = st.recursive(
    plain,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=12,
)


@given(
    entries=st.lists(st.dictionaries(st.text(max_size=6), values, max_size=4), max_size=5),
    before=st.dictionaries(st.text(max_size=6), values, max_size=3),
    indent=st.sampled_from([None, 1]),
    chunk=st.integers(1, 40),
)
def test_a_document_comes_apart_and_nothing_is_lost(entries, before, indent, chunk):
    document = {**before, "raw": {"first": "[{\\", "requests": entries, "last": [1]}}
    try:
        exported_file._CHUNK_BYTES, kept = chunk, exported_file._CHUNK_BYTES
        head, found = pieces(json.dumps(document, indent=indent))
    finally:
        exported_file._CHUNK_BYTES = kept
    assert found == entries
    document["raw"]["requests"] = []
    assert head == document


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        '{"a": "',
        '{"a": "\\',
        "{]",
        "]",
        '{"raw": {"requests": [1, 2]}}',
        '{"raw": {"requests": [{"a": 1}, 5, {"a": 2}]}}',
        '{"raw": {"requests": [[{}]]}}',
        '{"raw": {"requests": [{"a": 1}',
        '{"raw": {"requests": [{"a": ',
        '{"raw": {"requests": ["{}"]}}',
        '{"a": 1e999}',
        '{"a": NaN}',
        '{"a": 1' + "0" * 30 + "}",
        "[" * 10_000,
        '{"raw": {"requests": [{"a": ' + "[" * 10_000,
        '{"a": 1} {"b": 2}',
        "\xff\x00",
    ],
)
def test_what_is_no_document_is_refused(text):
    file = ExportedFile(io.BytesIO(text.encode("utf-8", "surrogateescape")), RAW, what="It")
    with pytest.raises(InputError) as refused:
        pieces_of(file)
    assert refused.value.code == "bad-record"


@given(st.binary(max_size=60))
def test_no_bytes_are_a_crash(data):
    with pytest.raises(InputError):
        bench_from_json(data)


def test_a_file_that_is_too_large_is_refused_before_it_is_read(monkeypatch):
    monkeypatch.setattr(exported_file, "MAX_BYTES", 100)
    with pytest.raises(InputError) as refused:
        bench_from_json(b" " * 101)
    assert refused.value.code == "import-too-large"


def test_what_is_beside_the_requests_has_a_limit(monkeypatch):
    monkeypatch.setattr(exported_file, "_MAX_HEAD_BYTES", 1000)
    with pytest.raises(InputError) as refused:
        bench_from_json(json.dumps({"junk": ["x" * 100] * 100}).encode())
    assert refused.value.code == "import-too-large"


def spoilt(path, value):
    document = a_document()
    *parents, last = path
    place = document
    for key in parents:
        place = place[key]
    place[last] = value
    return document


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("id",), "../../../evil"),
        (("id",), "<img src=x onerror=alert(1)>"),
        (("id",), ""),
        (("id",), "x" * 65),
        (("title",), "x" * 1001),
        (("note",), "x" * 20_001),
        (("created_at",), "2026-01-01T00:00:00"),
        (("environment", "lanes", 0, "lane", "name"), "=cmd|'/c calc'!A1"),
        (("environment", "lanes"), []),
        (("raw", "passes", 0, "lanes"), ["other"]),
        (("raw", "passes", 0, "lanes"), []),
        (("raw", "passes", 0, "start_ns"), 10**30),
        (("raw", "passes", 0, "end_ns"), -5),
        (("raw", "passes", 0, "number"), -1),
        (("raw", "passes", 0, "level"), {"concurrency": None, "rate_req_per_s": None}),
        (("raw", "passes", 0, "level"), {"concurrency": -4}),
        (("raw", "requests", 1, "number"), 0),
        (("raw", "requests", 1, "number"), -1),
        (("raw", "requests", 1, "number"), 10**30),
        (("raw", "requests", 1, "pass_number"), 7),
        (("raw", "requests", 1, "lane"), "b"),
        (("raw", "requests", 1, "prompt_tokens"), 10**30),
        (("raw", "requests", 1, "prompt_tokens"), -1),
        (("raw", "requests", 1, "planned_ns"), 10**25),
        (("raw", "requests", 1, "timing", "output_tokens"), 10**12),
        (("raw", "requests", 1, "timing", "sent_ns"), -1),
        (("raw", "requests", 1, "timing", "sent_ns"), 2**63),
        (("raw", "requests", 1, "timing", "chunk_ns"), [5, 4]),
        (("raw", "requests", 1, "timing", "content_chars"), [1]),
    ],
)
def test_values_that_can_not_be_are_refused(path, value):
    assert read(a_document())
    with pytest.raises(InputError) as refused:
        read(spoilt(path, value))
    assert refused.value.code == "bad-record"


def test_the_path_of_a_prompt_file_names_no_file_here():
    document = a_document()
    document["plan"]["workload"] |= {"prompts": "text", "path": "/etc/passwd"}
    plan = json.loads(read(document).run.plan)
    assert plan["workload"]["path"] == "passwd"


@pytest.fixture
def stores(tmp_path):
    url = f"sqlite:///{tmp_path / 'lmdyno.db'}"
    stores = BenchRuns(url), QualityRuns(url)
    yield stores
    for store in stores:
        store.close()


def test_a_run_goes_in_once_and_whole(stores):
    data = json.dumps(a_document()).encode()
    imported = import_run(io.BytesIO(data), *stores)
    assert (imported.kind, imported.is_new) == (RunKind.BENCH, True)
    record = stores[0].record(imported.run.id)
    assert replace(record.run, plan="") == replace(bench_from_json(data).run, plan="")
    assert record.requests == bench_from_json(data).requests
    assert not import_run(io.BytesIO(data), *stores).is_new


def test_nothing_stays_of_a_run_with_a_wrong_request(stores):
    document = spoilt(("raw", "requests", 2, "prompt_tokens"), -1)
    with pytest.raises(InputError):
        import_run(io.BytesIO(json.dumps(document).encode()), *stores)
    assert stores[0].run(document["id"]) is None


def test_nothing_stays_of_a_run_that_can_not_be_read_to_its_end(stores):
    record = read(a_document())

    def broken():
        yield record.requests[0]
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        stores[0].take_in(record.run, record.passes, broken())
    assert stores[0].run(record.run.id) is None


def test_viewers_import_nothing(stores):
    data = json.dumps(a_document()).encode()
    with acting_as(Identity(id="b", name="B", role=Role.VIEWER, login="1")), pytest.raises(AccessDenied):
        import_run(io.BytesIO(data), *stores)
