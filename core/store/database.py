"""The database's location, connections to it, and its failures in words for people.

SQLite is set up for several processes at once; or it is PostgreSQL. A `Location` is a checked database URL
whose text shows no secret. One table has the causes of failures.
"""

import errno
import os
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, Protocol, runtime_checkable

from sqlalchemy import Connection, Engine, NullPool, QueuePool, create_engine, event
from sqlalchemy.engine import URL, make_url
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import ArgumentError, DBAPIError, OperationalError, SQLAlchemyError
from sqlalchemy.pool import ConnectionPoolEntry

from core.errors import StoreError
from core.i18n import N_, Message, Text

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


class Failure(NamedTuple):
    code: str
    message: Message
    """With `{place}` and `{detail}`."""
    hint: Message


LOCKED = Failure(
    "store-locked",
    N_("Another program has locked the database: {place}."),
    N_("Close that program (a database browser or a backup), then try again."),
)
NOT_WRITABLE = Failure(
    "store-not-writable",
    N_("Can't write to the database: {place} ({detail})."),
    N_("Check its owner and permissions, or set LMDYNO_HOME to a folder that you can write to."),
)
FULL = Failure(
    "store-full",
    N_("No space is left for the database: {place}."),
    N_("Free some space on that disk, then try again."),
)
DISK = Failure(
    "store-disk-error",
    N_("A disk error occurred in the database: {place} ({detail})."),
    N_("Check that the disk is connected, healthy, and not full."),
)
CORRUPT = Failure(
    "store-corrupt",
    N_("The database is damaged, or the file is not a database: {place} ({detail})."),
    N_("To start with an empty database, move the file away. Or restore a backup."),
)
UNREACHABLE = Failure(
    "store-unreachable",
    N_("Can't reach the database: {place} ({detail})."),
    N_("Check that the server is running, and check host, user, and password in LMDYNO_DATABASE_URL."),
)
OTHER = Failure(
    StoreError.default_code,
    N_("The database failed: {place} ({detail})."),
    N_("If this happens again, report this message."),
)

_SQLITE = {
    sqlite3.SQLITE_BUSY: LOCKED,
    sqlite3.SQLITE_LOCKED: LOCKED,
    sqlite3.SQLITE_READONLY: NOT_WRITABLE,
    sqlite3.SQLITE_CANTOPEN: NOT_WRITABLE,
    sqlite3.SQLITE_PERM: NOT_WRITABLE,
    sqlite3.SQLITE_FULL: FULL,
    sqlite3.SQLITE_IOERR: DISK,
    sqlite3.SQLITE_CORRUPT: CORRUPT,
    sqlite3.SQLITE_NOTADB: CORRUPT,
}
# https://www.postgresql.org/docs/current/errcodes-appendix.html; a class is a code's first two characters.
_POSTGRESQL = {
    "55P03": LOCKED,
    "40P01": LOCKED,
    "25006": NOT_WRITABLE,
    "42501": NOT_WRITABLE,
    "53100": FULL,
    "53300": UNREACHABLE,
    "58030": DISK,
    "08": UNREACHABLE,
    "28": UNREACHABLE,
    "3D": UNREACHABLE,
    "57P01": UNREACHABLE,
    "57P02": UNREACHABLE,
    "57P03": UNREACHABLE,
    "XX001": CORRUPT,
    "XX002": CORRUPT,
}
_OS = {
    errno.ENOSPC: FULL,
    errno.EDQUOT: FULL,
    errno.EIO: DISK,
}


@runtime_checkable
class _PostgresError(Protocol):
    """A psycopg error; the driver is optional, so its class can't be named."""

    sqlstate: str | None


@contextmanager
def explained(location: Location) -> Iterator[None]:
    """Turn errors of the database, its driver and its files into a StoreError."""
    try:
        yield
    except (SQLAlchemyError, sqlite3.Error, OSError, OverflowError) as exc:
        raise explain(exc, location) from exc


def explain(error: Exception, location: Location) -> StoreError:
    """The StoreError for a database error, with what to do about it."""
    cause = (error.orig if isinstance(error, DBAPIError) else None) or error
    failure = _failure(error, cause)
    detail = location.without_secrets(str(cause).strip().partition("\n")[0])
    return StoreError(
        failure.message.filled(place=location, detail=detail),
        hint=failure.hint,
        code=failure.code,
    )


def _failure(error: Exception, cause: BaseException) -> Failure:
    if isinstance(cause, sqlite3.Error):
        return _SQLITE.get(_primary_code(cause), OTHER)
    if isinstance(cause, OSError):
        return _OS.get(cause.errno or 0, NOT_WRITABLE)
    if isinstance(cause, _PostgresError):
        if cause.sqlstate is None:  # the server never answered, or the connection broke
            return UNREACHABLE if isinstance(error, OperationalError) else OTHER
        return _POSTGRESQL.get(cause.sqlstate) or _POSTGRESQL.get(cause.sqlstate[:2]) or OTHER
    return OTHER


def _primary_code(error: sqlite3.Error) -> int:
    """SQLite's result code without its extension; errors of Python's own module have none."""
    try:
        return error.sqlite_errorcode & 0xFF
    except AttributeError:
        return sqlite3.SQLITE_ERROR
