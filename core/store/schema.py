"""Brings the database's schema to the one this code knows, once, whichever process comes first."""

import threading

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Connection, Engine, func, select
from sqlalchemy.exc import SQLAlchemyError

from core.errors import StoreError
from core.i18n import N_
from core.store.database import connect, copy_file, for_writing
from core.store.failures import OTHER, explain
from core.store.location import Location

SCRIPTS = "core.store:migrations"
_WAIT_S = 60.0
_ADVISORY_LOCK = 0x6C6D64796E6F  # "lmdyno"

# Alembic hands the running migration around in module globals.
_one_at_a_time = threading.Lock()


def upgrade(engine: Engine, location: Location) -> None:
    """Create or migrate the schema; quick and without a lock if it is the current one.

    All in one transaction that only one process enters at a time, so a failed migration changes nothing.
    Before an older SQLite schema is migrated, the database is copied to `<file>.schema-<revision>.bak`.
    Raises StoreError for a schema newer than this code.
    """
    config = Config()
    config.set_main_option("script_location", SCRIPTS)
    scripts = ScriptDirectory.from_config(config)
    with engine.connect() as connection:
        if _is_current(connection, scripts, location):
            return
    migration_engine = connect(location, lock_timeout_s=_WAIT_S, for_migration=True)
    with _one_at_a_time, for_writing(migration_engine).begin() as connection:
        if location.file is None:
            connection.execute(select(func.pg_advisory_xact_lock(_ADVISORY_LOCK)))
        if _is_current(connection, scripts, location):  # another process was first
            return
        _back_up(connection, location)
        config.attributes["connection"] = connection
        _migrate(config, connection, location)


def _is_current(connection: Connection, scripts: ScriptDirectory, location: Location) -> bool:
    revision = _revision(connection)
    if revision is None:
        return False
    known = [script.revision for script in scripts.walk_revisions()]
    if revision not in known:
        raise StoreError(
            N_(
                "A newer version of LMDyno wrote the database: {place} has schema {revision}, but this "
                "version "
                "supports only schemas up to {known}.",
                place=location,
                revision=revision,
                known=known[0],
            ),
            hint=N_("Update LMDyno, or set LMDYNO_HOME or LMDYNO_DATABASE_URL to another location."),
            code="store-newer-schema",
        )
    return revision == known[0]


def _revision(connection: Connection) -> str | None:
    return MigrationContext.configure(connection).get_current_revision()


def _back_up(connection: Connection, location: Location) -> None:
    revision = _revision(connection)
    if location.file and revision:
        copy_file(
            location.file,
            location.file.with_name(f"{location.file.name}.schema-{revision}.bak"),
        )


def _migrate(config: Config, connection: Connection, location: Location) -> None:
    try:
        command.upgrade(config, "head")
        if location.file and connection.exec_driver_sql("PRAGMA foreign_key_check").first():
            raise CommandError("a migration left rows that refer to nothing")
    except (SQLAlchemyError, CommandError) as exc:
        if isinstance(exc, SQLAlchemyError):
            known = explain(exc, location)
            if known.code != OTHER.code:
                raise known from exc
        raise StoreError(
            N_("Can't upgrade the database: {place} ({detail}).", place=location, detail=exc),
            hint=N_("Nothing was changed. Use the version of LMDyno that wrote it, and report this message."),
            code="store-upgrade-failed",
        ) from exc
