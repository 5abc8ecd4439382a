"""Databases to test against: SQLite files, and a PostgreSQL server of our own where one is installed."""

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from core.store.turns import Store

_STARTUP_S = 30


@pytest.fixture(scope="session")
def postgresql_server() -> Iterator[Path]:
    """The folder with the Unix socket of a running PostgreSQL server that the tests own."""
    pytest.importorskip("psycopg", reason="the PostgreSQL driver is not installed")
    binaries = _postgresql_binaries()
    if binaries is None:
        pytest.skip("no PostgreSQL server is installed")
    user = _server_user()
    # Not pytest's own folder: the path of a Unix socket has at most 107 characters.
    folder = Path(tempfile.mkdtemp(prefix="lmdyno-pg-"))
    if user:
        os.chown(folder, user.pw_uid, user.pw_gid)
    identity = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []} if user else {}
    try:
        subprocess.run(
            [binaries / "initdb", "-D", folder / "data", "-U", "lmdyno", "-A", "trust", "-E", "UTF8", "-N"],
            check=True,
            stdout=subprocess.DEVNULL,
            cwd=folder,
            timeout=60,
            **identity,
        )
        with (folder / "log").open("wb") as log:
            server = subprocess.Popen(
                [
                    *(binaries / "postgres", "-D", folder / "data", "-k", folder),
                    *("-c", "listen_addresses=", "-c", "fsync=off", "-c", "shared_buffers=16MB"),
                ],
                stdout=log,
                stderr=log,
                cwd=folder,
                **identity,
            )
        try:
            _wait_until_ready(binaries, folder)
            yield folder
        finally:
            server.send_signal(signal.SIGINT)  # PostgreSQL's "fast" shutdown
            server.wait(timeout=30)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'home' / 'lmdyno.db'}"


@pytest.fixture
def postgresql_url(postgresql_server: Path) -> str:
    """A new, empty database."""
    import psycopg

    name = f"test_{uuid4().hex}"
    with psycopg.connect(
        host=str(postgresql_server), user="lmdyno", dbname="postgres", autocommit=True
    ) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    return f"postgresql://lmdyno@/{name}?host={postgresql_server}"


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest) -> str:
    return request.getfixturevalue(f"{request.param}_url")


@pytest.fixture
def store(database_url: str) -> Iterator[Store]:
    store = Store(database_url)
    store.open()
    yield store
    store.close()


def _postgresql_binaries() -> Path | None:
    """The folder with initdb and postgres; Debian keeps it out of PATH."""
    if found := shutil.which("initdb"):
        return Path(found).resolve().parent
    installed = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    return installed[-1].parent if installed else None


def _server_user() -> pwd.struct_passwd | None:
    """Whom to run the server as: PostgreSQL refuses to run as root. None is whoever runs the tests."""
    return pwd.getpwnam("nobody") if os.getuid() == 0 else None


def _wait_until_ready(binaries: Path, folder: Path) -> None:
    deadline = time.monotonic() + _STARTUP_S
    command = [binaries / "pg_isready", "-q", "-h", folder]
    while subprocess.run(command, check=False, timeout=10).returncode != 0:
        if time.monotonic() > deadline:
            pytest.fail(f"PostgreSQL did not start:\n{(folder / 'log').read_text()}")
        time.sleep(0.1)
