"""The audit log: who did what to what, and when; and the logins that were ended."""

import logging
import threading
import time
from collections.abc import Sequence
from datetime import datetime, timedelta

from sqlalchemy import func, insert, select

from core.access.guard import Action, AuditEntry, authorise
from core.domain.turns import utc_now
from core.errors import StoreError
from core.store.access import Access
from core.store.tables import audit

log = logging.getLogger(__name__)

_LOOK_AGAIN_S = 10.0
_LOGIN_AT_MOST = timedelta(days=31)
"""No login is good for longer, so what ended it need not be known any more."""


class AuditLog(Access):
    """Thread-safe; those that read or write entries raise StoreError."""

    def __init__(self, database_url: str, *, lock_timeout_s: float = 5.0) -> None:
        super().__init__(database_url, lock_timeout_s=lock_timeout_s)
        self._looking = threading.Lock()
        self._looked_at: float | None = None
        self._ended: set[str] = set()
        self._begun: set[str] = set()

    def record(self, entry: AuditEntry) -> None:
        """Add an entry; none is ever changed or removed."""
        with self._writing() as connection:
            connection.execute(
                insert(audit).values(
                    at=entry.at,
                    who=entry.who,
                    name=entry.name,
                    action=entry.action,
                    target=entry.target,
                    allowed=entry.allowed,
                )
            )

    def entries(self, *, limit: int | None = None, offset: int = 0) -> Sequence[AuditEntry]:
        """The entries, newest first; all of them without a limit. Raises AccessDenied."""
        authorise(Action.READ_AUDIT)
        chosen = select(audit).order_by(audit.c.id.desc()).limit(limit).offset(offset)
        with self._reading() as connection:
            return tuple(
                AuditEntry(
                    who=row.who,
                    name=row.name,
                    action=row.action,
                    target=row.target,
                    allowed=row.allowed,
                    at=row.at,
                )
                for row in connection.execute(chosen)
            )

    def count(self) -> int:
        with self._reading() as connection:
            return connection.scalar(select(func.count()).select_from(audit)) or 0

    def begin_login(self, login: str) -> bool:
        """Take note of a login that is used; whether this process sees it for the first time."""
        with self._looking:
            is_new = login not in self._begun
            self._begun.add(login)
            return is_new

    def end_login(self, login: str) -> None:
        """Have a login count as ended in this process at once; the log tells other processes."""
        with self._looking:
            self._ended.add(login)

    def has_ended(self, login: str) -> bool:
        """Whether this login was ended, in any dashboard on this database.

        Known everywhere within ten seconds; a store that can't be read leaves it at what is known.
        """
        with self._looking:
            if self._looked_at is None or time.monotonic() - self._looked_at > _LOOK_AGAIN_S:
                self._looked_at = time.monotonic()
                try:
                    self._ended |= self._logouts(utc_now() - _LOGIN_AT_MOST)
                except StoreError as error:
                    log.warning("ended logins not read reason=%s", error.message)
            return login in self._ended

    def _logouts(self, since: datetime) -> set[str]:
        with self._reading() as connection:
            return set(
                connection.scalars(
                    select(audit.c.target).where(
                        audit.c.at >= since, audit.c.action == Action.LOG_OUT, audit.c.allowed.is_(True)
                    )
                )
            )
