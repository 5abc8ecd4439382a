"""The database's location, and connections to it: SQLite set up for several processes at once, or PostgreSQL.

A `Location` is a checked database URL whose text shows no secret.
"""

import os
import sqlite3
import threading
import time
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path

from sqlalchemy import Connection, Engine, NullPool, QueuePool, create_engine, event
from sqlalchemy.engine import URL, make_url
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import ArgumentError
from sqlalchemy.pool import ConnectionPoolEntry

from core.errors import StoreError
from core.i18n import N_, Text

_BEGIN = "lmdyno_begin"
_WAL_RETRY_S = 0.02
_CONNECT_TIMEOUT_S = 5
_CACHE_KIB = 256
"""Of a SQLite connection, of which a dashboard has dozens. What isn't in it is in the system's page cache."""

_creating = threading.Lock()
_DRIVERS = {
    "sqlite": "sqlite+pysqlite",
    "sqlite+pysqlite": "sqlite+pysqlite",
    "postgresql": "postgresql+psycopg",
    "postgresql+psycopg": "postgresql+psycopg",
}


@dataclass(frozen=True, slots=True)
class Location:
    """A checked database URL."""

    url: URL = field(repr=False)

    @property
    def file(self) -> Path | None:
        """The SQLite file; None for PostgreSQL."""
        if self.url.get_backend_name() != "sqlite":
            return None
        return Path(self.url.database or "").absolute()

    def __str__(self) -> str:
        """The file, or the PostgreSQL database and its server; never a password."""
        if self.file:
            return str(self.file)
        host = self.url.host or self.url.query.get("host") or "localhost"
        port = f":{self.url.port}" if self.url.port else ""
        return f"postgresql://{host}{port}/{self.url.database or 'postgres'}"

    def without_secrets(self, text: str) -> str:
        """`text`, such as a driver's message, with the URL's password blotted out."""
        for secret in (self.url.password, self.url.query.get("password")):
            if secret:
                text = text.replace(str(secret), "***")
        return text


def connect(location: Location, *, lock_timeout_s: float, for_migration: bool = False) -> Engine:
    """An engine whose connections wait up to `lock_timeout_s` for another program's lock.

    `for_migration` keeps no connection, and leaves foreign keys unchecked while tables are rebuilt (SQLite
    can't change that inside a transaction). Raises StoreError if the driver is missing.
    """
    is_sqlite = location.file is not None
    try:
        engine = create_engine(
            location.url,
            # A failing statement's error must not carry prompts into logs.
            hide_parameters=True,
            poolclass=NullPool if for_migration else QueuePool,
            pool_pre_ping=not is_sqlite,
            connect_args=(
                {"timeout": lock_timeout_s} if is_sqlite else _postgresql_options(location, lock_timeout_s)
            ),
        )
    except ImportError as exc:
        raise StoreError(
            N_("The PostgreSQL driver for the database isn't installed."),
            hint=N_("Install it: `pip install 'psycopg[binary]'`"),
            code="store-no-driver",
        ) from exc
    if is_sqlite:
        _set_up_sqlite(engine, foreign_keys=not for_migration)
    return engine


def for_writing(engine: Engine) -> Engine:
    """The same connections, but a transaction takes SQLite's write lock at its start.

    One that reads before it writes would fail at once, without waiting, if another writer came in between.
    """
    return engine.execution_options(**{_BEGIN: "BEGIN IMMEDIATE"})


def prepare_file(path: Path, *, lock_timeout_s: float) -> None:
    """Create the SQLite file for its owner alone, and let readers and a writer work side by side (WAL)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # Closing a file drops all locks that this process has on it, SQLite's too: so only a new file is
    # opened here, by one thread at a time (https://www.sqlite.org/howtocorrupt.html, 2.2).
    with _creating, suppress(FileExistsError):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
    with closing(sqlite3.connect(path, timeout=lock_timeout_s)) as connection:
        _use_wal(connection, lock_timeout_s)


def copy_file(path: Path, copy: Path) -> None:
    """Copy the SQLite database as last committed, while others use it; replaces an older copy."""
    unfinished = copy.with_name(f"{copy.name}.part")
    unfinished.unlink(missing_ok=True)
    os.close(os.open(unfinished, os.O_RDWR | os.O_CREAT, 0o600))
    with (
        closing(sqlite3.connect(path)) as source,
        closing(sqlite3.connect(unfinished)) as target,
    ):
        source.backup(target)
    unfinished.replace(copy)


def _use_wal(connection: sqlite3.Connection, lock_timeout_s: float) -> None:
    deadline = time.monotonic() + lock_timeout_s
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as exc:
            # SQLite does not wait here by itself while another process does the same.
            if exc.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
        time.sleep(_WAL_RETRY_S)


def _set_up_sqlite(engine: Engine, *, foreign_keys: bool) -> None:
    def on_connect(connection: DBAPIConnection, _: ConnectionPoolEntry) -> None:
        # No transactions of the driver's own making: it would begin them late, and never around DDL.
        connection.isolation_level = None
        cursor = connection.cursor()
        cursor.execute(f"PRAGMA foreign_keys = {int(foreign_keys)}")
        # With WAL a crash of the program loses nothing, and a power cut at most the last commits.
        cursor.execute("PRAGMA synchronous = NORMAL")
        cursor.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
        cursor.close()

    def on_begin(connection: Connection) -> None:
        connection.exec_driver_sql(connection.get_execution_options().get(_BEGIN, "BEGIN"))

    event.listen(engine, "connect", on_connect)
    event.listen(engine, "begin", on_begin)


def _postgresql_options(location: Location, lock_timeout_s: float) -> dict[str, str | int]:
    options: dict[str, str | int] = {
        "connect_timeout": _CONNECT_TIMEOUT_S,
        "application_name": "lmdyno",
        "options": f"-c lock_timeout={round(lock_timeout_s * 1000)}",
    }
    return {name: value for name, value in options.items() if name not in location.url.query}


def parse_location(database_url: str) -> Location:
    """The place that a SQLAlchemy URL names; raises StoreError for one that the store can't use."""
    try:
        url = make_url(database_url)
    except (ArgumentError, ValueError):
        # Without the cause: its text may hold the password.
        raise _bad_url(N_("it is not a database URL")) from None
    driver = _DRIVERS.get(url.drivername)
    if driver is None:
        raise _bad_url(N_("{driver} is not supported", driver=url.drivername))
    if driver.startswith("sqlite") and (url.database in (None, "", ":memory:") or url.query):
        raise _bad_url(N_("SQLite needs a plain file"))
    return Location(url.set(drivername=driver))


def _bad_url(problem: Text) -> StoreError:
    return StoreError(
        N_("Can't use LMDYNO_DATABASE_URL: {reason}.", reason=problem),
        hint=N_("Use sqlite:////folder/lmdyno.db or postgresql://user:password@host:5432/database."),
        code="store-bad-url",
    )
