import io
import json
from dataclasses import replace

import pytest

from core.domain.runs import RunState
from core.errors import InputError
from core.quality.results import results
from core.reports.run_json import is_quality_document, quality_to_json, read_quality
from tests.unit.quality import quality_samples as samples


def document(*, raw: bool, record=None) -> bytes:
    record = record or samples.record()
    return quality_to_json(results(record), record, raw=raw)


def test_a_document_names_every_figure():
    found = json.loads(document(raw=False))
    assert (found["kind"], found["reference"], found["state"]) == ("quality", "hf", "done")
    awq = found["lanes"][2]
    assert awq["tasks"]["outcomes"]["right"] == 6
    assert awq["texts"][0]["difference_nats"] == pytest.approx(0.1)
    assert awq["agreement"]["identical"] == 1
    assert awq["tokenizer"]["probe_sha256"] == "aa"
    assert found["noise"]["identical"] == 3
    assert found["verdicts"][2]["level"] == "worse"
    assert found["answers"] == found["facts"] == []


def test_a_raw_document_is_the_same_run_again():
    record = samples.record(note="Kept", tag="demo")
    again = read_quality(io.BytesIO(document(raw=True, record=record)))
    assert again.answers == record.answers
    assert again.run == replace(record.run, imported=True)
    assert results(again).lanes == results(record).lanes


def test_a_run_that_goes_on_is_imported_as_stopped():
    running = samples.record(state=RunState.RUNNING, finished_at=None)
    assert read_quality(io.BytesIO(document(raw=True, record=running))).run.state is RunState.STOPPED


def test_what_is_no_raw_document_is_refused_with_the_reason():
    with pytest.raises(InputError, match="not the answers they were computed from") as refused:
        read_quality(io.BytesIO(document(raw=False)))
    assert refused.value.code == "no-raw-facts"
    newer = json.loads(document(raw=True)) | {"schema_version": 99}
    with pytest.raises(InputError) as refused:
        read_quality(io.BytesIO(json.dumps(newer).encode()))
    assert refused.value.code == "newer-schema"


def test_documents_are_told_apart():
    assert is_quality_document(io.BytesIO(document(raw=False)))
    assert not is_quality_document(io.BytesIO(b'{"schema_version": 1}'))
    assert not is_quality_document(io.BytesIO(b"nothing"))
