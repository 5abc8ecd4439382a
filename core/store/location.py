"""Where the store is: the database URL, checked, and as text that shows no secret."""

from dataclasses import dataclass, field
from pathlib import Path

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from core.errors import StoreError
from core.i18n import N_, Text

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
