"""Failures of a database in words for people: one table of causes."""

import errno
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple, Protocol, runtime_checkable

from sqlalchemy.exc import DBAPIError, OperationalError, SQLAlchemyError

from core.errors import StoreError
from core.i18n import N_, Message
from core.store.database import Location


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
