from collections.abc import Iterator

import pytest

from tests.scripted_server import RunningServer, running


@pytest.fixture
def server() -> Iterator[RunningServer]:
    with running() as server:
        yield server
