"""The audit log as a table, for spreadsheets."""

from collections.abc import Iterable

from core import csv_text
from core.access.guard import AuditEntry

_COLUMNS = ("at", "who", "name", "action", "target", "allowed")


def to_csv(entries: Iterable[AuditEntry]) -> str:
    """A row an action, with a header row; times in UTC."""
    return csv_text.to_csv(
        _COLUMNS,
        (
            {
                "at": entry.at.isoformat(timespec="seconds"),
                "who": entry.who,
                "name": entry.name,
                "action": entry.action.value,
                "target": entry.target,
                "allowed": entry.allowed,
            }
            for entry in entries
        ),
    )
