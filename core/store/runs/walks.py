"""Walks that ended, each with all its steps."""

from sqlalchemy import select

from core.access.guard import current_identity
from core.domain.turns import utc_now
from core.domain.walk import WalkRun
from core.i18n import N_
from core.store import records
from core.store.access import Access
from core.store.runs.run_rows import save_with_lanes
from core.store.tables import walk_lanes, walks
from core.store.visibility import by_link


class Walks(Access):
    """Walks in SQLite or PostgreSQL; every method but `close` raises StoreError.

    A walk that whoever acts may not see (`core.access`) is as if it were not there.
    """

    def save(self, run: WalkRun) -> None:
        """Keep a walk in place of an earlier state of it; its note and tag are the history's."""
        values = {
            "id": run.id,
            "created_at": run.created_at,
            "updated_at": utc_now(),
            "state": run.state,
            "title": N_("Walk with {model}", model=run.model),
            "machine_id": records.digest(run.machine) if run.machine else None,
            "facts": run,
            "owner": current_identity().owner,
        }
        with self._writing() as connection:
            save_with_lanes(connection, (walks, walk_lanes), values, run.machine, run.lanes)

    def run(self, walk_id: str) -> WalkRun | None:
        """A walk; None if there is none."""
        with self._reading() as connection:
            run: WalkRun | None = connection.scalar(
                select(walks.c.facts).where(walks.c.id == walk_id, by_link(walks.c.owner))
            )
        return run
