"""What is kept on how a checkpoint was made."""

import json
import time

import pytest

from core.models.provenance import PROVENANCE_FILE, read_provenance_note, write_provenance


def test_provenance_says_from_what_and_with_what(tmp_path):
    began_s = time.time() - 2
    write_provenance(
        tmp_path, source={"file": "x"}, changes="padded", packages=("pytest", "not-there"), began_s=began_s
    )
    note = json.loads((tmp_path / PROVENANCE_FILE).read_text())
    assert note["source"] == {"file": "x"}
    assert note["versions"] == {"pytest": pytest.__version__, "not-there": None}
    assert 2 <= note["duration_s"] < 60


@pytest.mark.parametrize("content", [None, "{", "[]"])
def test_a_note_that_cannot_be_read_is_none(tmp_path, content):
    if content is not None:
        (tmp_path / PROVENANCE_FILE).write_text(content, "utf-8")

    assert read_provenance_note(tmp_path) is None
