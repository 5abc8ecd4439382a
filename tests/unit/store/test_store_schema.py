import json
import re
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from importlib.resources import as_file, files
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Engine, event, text

from core import codec
from core.errors import StoreError
from core.settings import PROJECT_ROOT
from core.store import access, records
from core.store.database import connect, parse_location
from core.store.history import History
from core.store.tables import metadata
from core.store.turns import Store
from tests import new_stores, postgresql
from tests.unit.store.store_samples import HF, MACHINE, QUESTION, a_full_record, a_plan


def _head() -> str:
    config = Config()
    config.set_main_option("script_location", str(access.SCRIPTS))
    head = ScriptDirectory.from_config(config).get_current_head()
    assert head
    return head


HEAD = _head()


@pytest.fixture(autouse=True)
def all_migrations() -> Iterator[None]:
    """New stores are migrated from nothing."""
    with new_stores.migrated_each_time():
        yield


@pytest.fixture
def postgresql_url(postgresql_server: Path) -> str:
    """A new database without any table."""
    return postgresql.new_database(postgresql_server)


@pytest.fixture
def next_migration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Gives the program one more migration, with the given body."""

    def add(body: str) -> None:
        scripts = tmp_path / "migrations"
        with as_file(files("core.store") / "migrations") as original:
            shutil.copytree(original, scripts)
        (scripts / "versions" / "9000_next.py").write_text(
            "from alembic import op\n"
            "import sqlalchemy as sa\n"
            f"revision, down_revision = '9000', '{HEAD}'\n"
            f"def upgrade():\n    {body}\n"
        )
        monkeypatch.setattr(access, "SCRIPTS", scripts)

    return add


def test_the_migrations_make_the_schema_that_the_code_describes(database_url: str, store: Store) -> None:
    engine = connect(parse_location(database_url), lock_timeout_s=5)
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []
    engine.dispose()


def test_the_name_of_each_migrations_file_begins_with_its_revision() -> None:
    config = Config()
    config.set_main_option("script_location", str(access.SCRIPTS))
    revisions = [script.revision for script in ScriptDirectory.from_config(config).walk_revisions()]
    assert access.known_revisions() == revisions[::-1]


def test_opening_a_store_of_the_current_schema_loads_no_alembic(sqlite_url: str) -> None:
    _with_a_turn(sqlite_url)
    program = (
        "import sys; from core.store.turns import Store; "
        f"print(len(Store({sqlite_url!r}).conversation('talk')), 'alembic' in sys.modules)"
    )
    shown = subprocess.run(
        [sys.executable, "-c", program], cwd=PROJECT_ROOT, capture_output=True, text=True, check=True
    )
    assert shown.stdout.split() == ["1", "False"]


def test_opening_again_changes_nothing(sqlite_url: str) -> None:
    file = _with_a_turn(sqlite_url)
    before = file.read_bytes()
    store = Store(sqlite_url)
    store.open()
    store.open()
    store.close()
    assert file.read_bytes() == before
    assert sorted(path.name for path in file.parent.iterdir()) == ["lmdyno.db"]


def test_a_newer_schema_is_refused(store: Store, database_url: str) -> None:
    store.close()
    engine = connect(parse_location(database_url), lock_timeout_s=5)
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    engine.dispose()
    with pytest.raises(
        StoreError, match=f"schema 9999, but this version supports only schemas up to {HEAD}"
    ) as caught:
        store.open()
    assert caught.value.code == "store-newer-schema"
    assert "Update LMDyno" in caught.value.hint


def test_an_older_schema_is_migrated_and_a_copy_kept(
    sqlite_url: str, next_migration: Callable[[str], None]
) -> None:
    file = _with_a_turn(sqlite_url)
    next_migration("op.add_column('turns', sa.Column('tag', sa.Text))")
    store = Store(sqlite_url)
    assert len(store.conversation("talk")) == 1
    store.close()
    assert _columns(file, "turns")[-1] == "tag"
    copy = file.with_name(f"lmdyno.db.schema-{HEAD}.bak")
    assert "tag" not in _columns(copy, "turns")
    assert copy.stat().st_mode & 0o777 == 0o600
    assert sorted(path.name for path in file.parent.iterdir()) == [file.name, copy.name]


def test_turns_of_the_first_schema_are_still_there(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripts = tmp_path / "first"
    with as_file(files("core.store") / "migrations") as original:
        shutil.copytree(original, scripts, ignore=shutil.ignore_patterns("000[2-9]_*", "001*", "__pycache__"))
    with monkeypatch.context() as patched:
        patched.setattr(access, "SCRIPTS", scripts)
        store = Store(database_url)
        store.open()
        store.close()
    engine = connect(parse_location(database_url), lock_timeout_s=5)
    with engine.begin() as connection:
        connection.execute(
            text(
                "INSERT INTO turns (id, conversation_id, created_at, mode, sampling, prompt, system_prompt) "
                "VALUES ('t1', 'talk', '2026-01-01 00:00:00', 'together', '{}', 'Hi', '')"
            )
        )
    engine.dispose()
    history = History(database_url)
    assert [entry.title for entry in history.entries()] == ["Hi"]
    history.close()


def test_a_turn_stored_before_there_were_images_comes_back_without_any(
    sqlite_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripts = tmp_path / "third"
    with as_file(files("core.store") / "migrations") as original:
        shutil.copytree(original, scripts, ignore=shutil.ignore_patterns("000[4-9]_*", "001*", "__pycache__"))
    with monkeypatch.context() as patched:
        patched.setattr(access, "SCRIPTS", scripts)
        store = Store(sqlite_url)
        store.open()
        store.close()
    file = parse_location(sqlite_url).file
    assert file is not None
    plan = a_plan(HF)
    lane, thread = records.lane_rows([HF])[0], records.message_rows(plan.requests[0].messages)
    with closing(sqlite3.connect(file)) as connection:
        connection.executescript(
            f"""
            INSERT INTO turns VALUES
                ('t1', 'talk', '2026-01-01', NULL, 'together', '{{}}', NULL, '{plan.prompt}', '');
            INSERT INTO lanes VALUES
                ('{lane["id"]}', 'hf', 'transformers', 'smol', '{codec.encode(HF).decode()}');
            INSERT INTO messages VALUES ('{thread[0]["id"]}', NULL, 'user', '{plan.prompt}');
            INSERT INTO requests
                (id, turn_id, position, lane_id, last_message_id, phase, updated_at, notes, reasoning, text)
            VALUES
                ('r1', 't1', 0, '{lane["id"]}', '{thread[0]["id"]}', 'done', '2026-01-01', '[]', '', 'Paris');
            """
        )
    store = Store(sqlite_url)
    (turn,) = store.conversation("talk")
    assert (turn.images, turn.requests[0].messages, turn.requests[0].text) == ((), (QUESTION,), "Paris")
    # The same words asked again are the same stored message.
    store.save_turn(plan, None)
    store.close()
    with closing(sqlite3.connect(file)) as connection:
        assert connection.execute("SELECT count(*) FROM messages").fetchone() == (1,)


def test_plans_stored_under_the_old_words_are_read_under_the_new_ones(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripts = tmp_path / "sixth"
    with as_file(files("core.store") / "migrations") as original:
        shutil.copytree(original, scripts, ignore=shutil.ignore_patterns("000[7-9]_*", "001*", "__pycache__"))
    with monkeypatch.context() as patched:
        patched.setattr(access, "SCRIPTS", scripts)
        store = Store(database_url)
        store.open()
        store.close()
    plan = '{"sharing":"together","workload":{"pictures":[],"path":"say \\"pictures\\": now"}}'
    engine = connect(parse_location(database_url), lock_timeout_s=5)
    with engine.begin() as connection:
        connection.execute(
            text(
                "INSERT INTO bench_runs (id, created_at, updated_at, state, title, lmdyno, imported, plan) "
                "VALUES ('r1', '2026-01-01 00:00:00', '2026-01-01 00:00:00', 'done', '', '0.1', false, :plan)"
            ),
            {"plan": plan},
        )
    store = Store(database_url)
    store.open()
    store.close()
    with engine.begin() as connection:
        (stored,) = connection.execute(text("SELECT plan FROM bench_runs")).scalars()
    engine.dispose()
    assert json.loads(stored) == {
        "isolation": "together",
        "workload": {"images": [], "path": 'say "pictures": now'},
    }


@pytest.mark.parametrize(
    "body",
    [
        "op.drop_table('requests'); op.execute('SELECT * FROM nowhere')",
        "op.execute('DELETE FROM messages')",
    ],
    ids=["a statement fails", "rows are left that refer to nothing"],
)
def test_a_failed_migration_changes_nothing(
    sqlite_url: str, next_migration: Callable[[str], None], body: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = _with_a_turn(sqlite_url)
    scripts = access.SCRIPTS
    next_migration(body)
    with pytest.raises(StoreError) as caught:
        Store(sqlite_url).open()
    assert caught.value.code == "store-upgrade-failed"
    monkeypatch.setattr(access, "SCRIPTS", scripts)
    store = Store(sqlite_url)
    assert store.conversation("talk")[0].requests[0].text == "Par是"
    store.close()
    assert file.with_name(f"lmdyno.db.schema-{HEAD}.bak").exists()


def test_a_failed_migration_of_a_server_changes_nothing(
    postgresql_url: str, next_migration: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(postgresql_url)
    store.save_turn(a_plan(), None)
    store.close()
    scripts = access.SCRIPTS
    next_migration("op.drop_table('requests'); op.execute('SELECT * FROM nowhere')")
    with pytest.raises(StoreError) as caught:
        store.open()
    assert caught.value.code == "store-upgrade-failed"
    monkeypatch.setattr(access, "SCRIPTS", scripts)
    assert len(store.conversation("talk")[0].requests) == 2
    store.close()


def test_the_file_is_its_owners_alone_and_in_wal_mode(sqlite_url: str) -> None:
    file = _with_a_turn(sqlite_url)
    assert file.stat().st_mode & 0o777 == 0o600
    with closing(sqlite3.connect(file)) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_a_request_can_not_refer_to_a_missing_turn(store: Store, database_url: str) -> None:
    engine = connect(parse_location(database_url), lock_timeout_s=5)
    with pytest.raises(Exception, match=r"(?i)foreign key"), engine.begin() as connection:
        connection.execute(
            text("INSERT INTO turns SELECT 'x', 'c', '2026-01-01', NULL, '', '', 'no', '', '', NULL, NULL")
        )
    engine.dispose()


def test_no_query_reads_a_whole_table(sqlite_url: str) -> None:
    file = _with_a_turn(sqlite_url)
    statements: list[tuple[str, tuple[object, ...]]] = []

    def note(_, __, statement: str, parameters: tuple[object, ...], *___) -> None:
        statements.append((statement, parameters))

    store = Store(sqlite_url)
    store.open()
    event.listen(Engine, "before_cursor_execute", note)
    try:
        (turn,) = store.conversation("talk")
        store.turn(turn.id)
        store.save_request(turn.requests[0])
        store.interrupt_unfinished()
    finally:
        event.remove(Engine, "before_cursor_execute", note)
        store.close()
    queries = [(sql, values) for sql, values in statements if not sql.startswith("BEGIN")]
    assert len(queries) == 2 * 6 + 2 + 1
    with closing(sqlite3.connect(file)) as connection:
        for sql, values in queries:
            steps = connection.execute(f"EXPLAIN QUERY PLAN {sql}", values).fetchall()
            assert not re.search(
                r"SCAN (turns|requests|request_pieces|messages|lanes|machines)\b", str(steps)
            ), sql


def _with_a_turn(sqlite_url: str) -> Path:
    store = Store(sqlite_url)
    plan = a_plan(HF)
    store.save_turn(plan, MACHINE)
    store.save_request(a_full_record(plan))
    store.close()
    file = parse_location(sqlite_url).file
    assert file is not None
    return file


def _columns(file: Path, table: str) -> list[str]:
    with closing(sqlite3.connect(file)) as connection:
        return [row[1] for row in connection.execute(f"PRAGMA table_info({table})")]
