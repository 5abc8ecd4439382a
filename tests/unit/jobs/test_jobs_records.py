"""The file in which a job keeps what it has found so far."""

from dataclasses import dataclass

import pytest

from core.errors import InputError
from core.jobs.records import load_outcome, outcome_file, save_outcome


@dataclass(frozen=True, slots=True)
class Found:
    steps: tuple[int, ...]


def test_the_newest_state_is_read_and_nothing_else_left(tmp_path):
    file = outcome_file(tmp_path / "runs", "abc1", "run")
    assert load_outcome(Found, file) is None
    save_outcome(file, Found((1,)))
    save_outcome(file, Found((1, 2)))
    assert load_outcome(Found, file) == Found((1, 2))
    assert [path.name for path in file.parent.iterdir()] == ["abc1.json"]


def test_a_file_of_another_shape_is_said(tmp_path):
    file = outcome_file(tmp_path, "abc1", "run")
    file.write_text('{"steps": "many"}')
    with pytest.raises(InputError, match="steps") as caught:
        load_outcome(Found, file)
    assert caught.value.code == "bad-record"


@pytest.mark.parametrize("job_id", ["../secret", "a/b", "", "a.b"])
def test_an_id_that_is_a_path_is_refused(tmp_path, job_id):
    with pytest.raises(InputError) as caught:
        outcome_file(tmp_path, job_id, "run")
    assert caught.value.code == "no-such-run"
