"""Databases to test against: SQLite files, and a PostgreSQL server of our own where one is installed."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from core.store.turns import Store
from tests import new_stores, postgresql


@pytest.fixture(scope="session")
def postgresql_server() -> Iterator[Path]:
    """The folder with the Unix socket of a running PostgreSQL server that the tests own."""
    with postgresql.running() as folder:
        yield folder


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'home' / 'lmdyno.db'}"


@pytest.fixture(scope="session")
def migrated_postgresql_url(postgresql_server: Path) -> str:
    """A database with this version's schema, which the tests use one after another."""
    url = postgresql.new_database(postgresql_server)
    with closing(Store(url)) as store:
        store.open()
    return url


@pytest.fixture
def postgresql_url(migrated_postgresql_url: str) -> str:
    """A database with this version's schema and no rows."""
    new_stores.empty_postgresql(migrated_postgresql_url)
    return migrated_postgresql_url


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest) -> str:
    return request.getfixturevalue(f"{request.param}_url")


@pytest.fixture
def store(database_url: str) -> Iterator[Store]:
    store = Store(database_url)
    store.open()
    yield store
    store.close()
