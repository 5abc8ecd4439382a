import sqlite3
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from sqlalchemy import Pool, event
from sqlalchemy.exc import OperationalError

from core.errors import StoreError
from core.store.database import connect, explain, explained, parse_location
from core.store.turns import Store
from tests.unit.store.store_samples import HF, a_full_record, a_plan, a_record


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


def test_a_locked_store_says_so_and_works_again(sqlite_url: str) -> None:
    store = Store(sqlite_url, lock_timeout_s=0.05)
    plan = a_plan(HF)
    store.save_turn(plan, None)
    with closing(sqlite3.connect(_file(sqlite_url), isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        _assert_fails("store-locked", lambda: store.save_request(a_full_record(plan)))
        assert store.turn(plan.id) is not None  # reading goes on
    store.save_request(a_full_record(plan))
    store.close()


def test_opening_waits_for_another_program_that_writes(sqlite_url: str) -> None:
    file = _file(sqlite_url)
    file.parent.mkdir()
    with closing(sqlite3.connect(file, isolation_level=None, check_same_thread=False)) as other:
        other.execute("CREATE TABLE not_ours (id)")  # not in WAL mode yet
        other.execute("BEGIN IMMEDIATE")
        leaving = threading.Timer(0.3, other.execute, ["ROLLBACK"])
        leaving.start()
        store = Store(sqlite_url, lock_timeout_s=60)
        store.open()
        store.close()
        leaving.join()


def test_a_row_locked_on_a_server_says_so(postgresql_url: str) -> None:
    import psycopg

    store = Store(postgresql_url, lock_timeout_s=0.05)
    plan = a_plan(HF)
    store.save_turn(plan, None)
    with psycopg.connect(postgresql_url) as other:
        other.execute("SELECT * FROM requests FOR UPDATE")
        _assert_fails("store-locked", lambda: store.save_request(a_full_record(plan)))
    store.close()


def test_a_full_disk_says_so_and_keeps_what_is_there(sqlite_url: str) -> None:
    Store(sqlite_url).open()
    with _no_page_left():
        store = Store(sqlite_url)
        _assert_fails("store-full", lambda: store.save_turn(a_plan(prompt="x" * 2**20), None))
        assert store.conversations() == ()
        store.close()


def test_a_folder_in_place_of_the_file_is_not_writable(tmp_path: Path) -> None:
    _assert_fails("store-not-writable", Store(f"sqlite:///{tmp_path}").open)


def test_a_file_in_place_of_the_folder_is_not_writable(tmp_path: Path) -> None:
    (tmp_path / "home").write_text("")
    _assert_fails("store-not-writable", Store(f"sqlite:///{tmp_path}/home/lmdyno.db").open)


def test_a_database_opened_read_only_is_not_writable(sqlite_url: str) -> None:
    store = Store(sqlite_url)
    store.open()
    with _on_each_connection("PRAGMA query_only = ON"):
        store.close()
        _assert_fails("store-not-writable", lambda: store.save_turn(a_plan(), None))
        assert store.conversations() == ()
        store.close()


def test_a_file_that_is_no_database_is_corrupt(sqlite_url: str) -> None:
    file = _file(sqlite_url)
    file.parent.mkdir()
    file.write_bytes(b"not a database, but some other file " * 100)
    error = _assert_fails("store-corrupt", Store(sqlite_url).open)
    assert str(file) in error.message


def test_a_damaged_database_is_corrupt(sqlite_url: str) -> None:
    store = Store(sqlite_url)
    store.save_turn(a_plan(prompt="x" * 100_000), None)
    store.close()
    file = _file(sqlite_url)
    data = bytearray(file.read_bytes())
    data[4096:] = b"\xa5" * (len(data) - 4096)
    file.write_bytes(data)
    _assert_fails("store-corrupt", lambda: store.conversation("talk"))


def test_an_unreachable_server_says_so_without_the_password() -> None:
    pytest.importorskip("psycopg", reason="the PostgreSQL driver is not installed")
    # Port 1 of the loopback interface: nothing listens there.
    store = Store("postgresql://me:s3cret@127.0.0.1:1/runs")
    error = _assert_fails("store-unreachable", store.open)
    assert "127.0.0.1:1/runs" in error.message
    assert "s3cret" not in error.message + error.hint


def test_an_unknown_database_on_a_server_says_so(postgresql_url: str) -> None:
    url = postgresql_url.replace("/test_", "/absent_")
    error = _assert_fails("store-unreachable", Store(url).open)
    assert "does not exist" in error.message


def test_a_server_that_refuses_changes_is_not_writable(postgresql_url: str) -> None:
    Store(postgresql_url).open()
    store = Store(f"{postgresql_url}&options=-c%20default_transaction_read_only%3Don")
    _assert_fails("store-not-writable", lambda: store.save_turn(a_plan(), None))
    assert store.conversations() == ()
    store.close()


def test_a_missing_driver_is_named_with_its_pip_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    error = _assert_fails("store-no-driver", Store("postgresql://127.0.0.1/runs").open)
    assert "pip install 'psycopg[binary]'" in error.hint


def test_a_wrong_url_is_told_on_opening_not_on_making_the_store() -> None:
    _assert_fails("store-bad-url", Store("nonsense").open)


def test_a_failed_statement_carries_no_prompt(sqlite_url: str) -> None:
    store = Store(sqlite_url)
    store.open()
    with closing(sqlite3.connect(_file(sqlite_url))) as other:
        other.execute("DROP TABLE turns")
    with pytest.raises(StoreError) as caught:
        store.save_turn(a_plan(prompt="my secret question"), None)
    assert caught.value.code == "store"
    assert "no such table" in caught.value.message
    assert "my secret question" not in f"{caught.value.message} {caught.value.__cause__}"
    store.close()


@pytest.mark.parametrize(
    ("sqlstate", "code"),
    [
        ("53100", "store-full"),
        ("40P01", "store-locked"),
        ("42501", "store-not-writable"),
        ("28P01", "store-unreachable"),
        ("57P03", "store-unreachable"),
        ("XX001", "store-corrupt"),
        ("22021", "store"),
    ],
)
def test_a_servers_refusal_is_told_by_its_sqlstate(sqlstate: str, code: str) -> None:
    class ServerError(Exception):
        pass

    cause = ServerError("no\nDETAIL: the whole row")
    cause.sqlstate = sqlstate
    error = explain(OperationalError("INSERT", {}, cause), parse_location("postgresql://h/db"))
    assert error.code == code
    assert "DETAIL" not in error.message


def test_a_store_works_again_once_the_cause_is_gone(sqlite_url: str) -> None:
    file = _file(sqlite_url)
    file.mkdir(parents=True)
    store = Store(sqlite_url)
    plan = a_plan(HF)
    _assert_fails("store-not-writable", lambda: store.save_turn(plan, None))
    file.rmdir()
    store.save_turn(plan, None)
    store.save_request(a_record(plan, text="kept"))
    assert store.conversation("talk")[0].requests[0].text == "kept"
    store.close()


def _assert_fails(code: str, act) -> StoreError:
    with pytest.raises(StoreError) as caught:
        act()
    assert caught.value.code == code
    assert caught.value.message
    assert caught.value.hint
    return caught.value


def _file(sqlite_url: str) -> Path:
    file = parse_location(sqlite_url).file
    assert file is not None
    return file


def _no_page_left():
    """As on a full disk: SQLite may not make any database larger than it is."""
    return _on_each_connection("PRAGMA max_page_count = 1")


@contextmanager
def _on_each_connection(statement: str) -> Iterator[None]:
    def run(connection, _) -> None:
        connection.execute(statement)

    event.listen(Pool, "connect", run)
    try:
        yield
    finally:
        event.remove(Pool, "connect", run)


def test_a_number_that_no_column_holds_is_told_as_an_error_of_the_store(tmp_path):
    location = parse_location(f"sqlite:///{tmp_path / 'x.db'}")
    with pytest.raises(StoreError), explained(location):
        sqlite3.connect(":memory:").execute("select ?", (10**30,))
