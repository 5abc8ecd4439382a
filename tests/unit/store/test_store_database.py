from pathlib import Path

import pytest

from core.errors import StoreError
from core.store.database import connect, parse_location


def test_a_sqlite_file_is_shown_by_its_path() -> None:
    location = parse_location("sqlite:////home/me/lmdyno.db")
    assert location.file == Path("/home/me/lmdyno.db")
    assert str(location) == "/home/me/lmdyno.db"


def test_a_server_is_shown_without_user_and_password() -> None:
    location = parse_location("postgresql://me:s3cret@db.example:5433/runs?password=0ther")
    assert location.file is None
    assert str(location) == "postgresql://db.example:5433/runs"
    assert "s3cret" not in repr(location)
    assert location.without_secrets("s3cret and 0ther") == "*** and ***"


@pytest.mark.parametrize(
    "url",
    [
        "",
        "not a url",
        "postgresql://me:s3cret@host:port/db",
        "mysql://me:s3cret@host/db",
        "postgresql+asyncpg://me:s3cret@host/db",
        "sqlite://",
        "sqlite:///:memory:",
        "sqlite:///file:lmdyno.db?mode=ro&uri=true",
    ],
)
def test_an_unusable_url_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(StoreError) as caught:
        parse_location(url)
    assert caught.value.code == "store-bad-url"
    assert "postgresql://" in caught.value.hint
    assert "s3cret" not in caught.value.message + caught.value.hint
    assert caught.value.__cause__ is None


def test_a_connection_to_sqlite_keeps_little_of_the_file(tmp_path: Path) -> None:
    engine = connect(parse_location(f"sqlite:///{tmp_path / 'lmdyno.db'}"), lock_timeout_s=1.0)
    with engine.connect() as connection:
        cache_size = connection.exec_driver_sql("PRAGMA cache_size").scalar_one()
    engine.dispose()
    assert -512 <= cache_size < 0  # in KiB; SQLite's own is 2,000
