from pathlib import Path

import pytest

from core.domain.turns import Phase
from core.store.turns import Store
from tests import postgresql
from tests.quick_processes import quick
from tests.unit.store.store_samples import open_in_step, write_turns

_TURNS = 8


@pytest.fixture
def postgresql_url(postgresql_server: Path) -> str:
    """A new database without any table."""
    return postgresql.new_database(postgresql_server)


def test_processes_open_and_write_at_once_while_another_reads(database_url: str) -> None:
    writers = [quick.Process(target=write_turns, args=(database_url, name, _TURNS)) for name in "abc"]
    for writer in writers:
        writer.start()
    reader = Store(database_url, lock_timeout_s=60)
    while any(writer.is_alive() for writer in writers):
        for talk in reader.conversations():
            assert all(len(turn.requests) == 2 for turn in reader.conversation(talk.id))
    for writer in writers:
        writer.join(60)
    assert [writer.exitcode for writer in writers] == [0, 0, 0]
    for name in "abc":
        requests = [request for turn in reader.conversation(name) for request in turn.requests]
        assert len(requests) == 2 * _TURNS
        assert {(request.phase, request.text) for request in requests} == {(Phase.DONE, "Par是")}
    reader.close()


def test_processes_that_create_a_store_together_create_it_once(tmp_path: Path) -> None:
    urls = [f"sqlite:///{tmp_path / str(number)}.db" for number in range(8)]
    barrier = quick.Barrier(3)
    openers = [quick.Process(target=open_in_step, args=(urls, barrier)) for _ in range(3)]
    for opener in openers:
        opener.start()
    for opener in openers:
        opener.join(100)
    assert [opener.exitcode for opener in openers] == [0, 0, 0]
