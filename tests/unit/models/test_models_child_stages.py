import pytest

from core.i18n import N_
from core.models.child_stages import say, stage_of


def test_a_stage_keeps_what_it_is_made_of(capsys):
    say(N_("Converting shard {number} of {count}", number=1, count=2))
    stage = stage_of(capsys.readouterr().out)
    assert stage == "Converting shard 1 of 2"
    assert stage.values == {"number": 1, "count": 2}


@pytest.mark.parametrize("line", ["a library's own line\n", "3\n", "{}\n"])
def test_any_other_line_is_a_stage_as_it_is(line):
    assert stage_of(line) == line.rstrip()
