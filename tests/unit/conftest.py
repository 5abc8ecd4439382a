from collections.abc import Iterator
from pathlib import Path

import pytest

from core.settings import Settings
from tests.scripted_server import RunningServer, running


@pytest.fixture
def server() -> Iterator[RunningServer]:
    with running() as server:
        yield server


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    home = tmp_path / "home"
    return Settings(
        home=home,
        lanes_file=home / "lanes.toml",
        database_url=f"sqlite:///{home / 'lmdyno.db'}",
        secrets_file=home / "secrets.toml",
    )
