from contextlib import closing

import pytest

from core.access.guard import Action, acting_as, authorise, make_read_only, may
from core.access.identity import LOCAL, SYSTEM
from core.domain.runs import RunKind
from core.errors import AccessDenied
from core.store.history import History
from core.store.run_tables import Walks
from tests.unit.replay.recorded import walk


@pytest.fixture
def read_only():
    make_read_only()
    yield
    make_read_only(False)


@pytest.mark.parametrize("identity", [LOCAL, SYSTEM])
@pytest.mark.parametrize("action", list(Action))
def test_nobody_may_change_anything(read_only, identity, action):
    with acting_as(identity):
        assert may(action) == (action is Action.EXPORT)
        if action is not Action.EXPORT:
            with pytest.raises(AccessDenied) as caught:
                authorise(action)
            assert caught.value.code == "read-only"


def test_the_store_takes_nothing_whoever_writes(tmp_path, read_only):
    make_read_only(False)
    url = f"sqlite:///{tmp_path / 'lmdyno.db'}"
    with closing(Walks(url)) as walks, closing(History(url)) as history:
        walks.save(walk(1.0))
        make_read_only()
        with pytest.raises(AccessDenied):
            walks.save(walk(2.0))
        with pytest.raises(AccessDenied):
            history.delete(RunKind.WALK, ["walk00001"])
        assert history.count() == 1
        assert walks.run("walk00001") == walk(1.0)
