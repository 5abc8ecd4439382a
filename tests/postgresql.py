"""A PostgreSQL server that the tests own, where one is installed."""

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import pytest

_STARTUP_S = 30


@contextmanager
def running() -> Iterator[Path]:
    """The folder with the Unix socket of a running server; skips the test where none is installed."""
    pytest.importorskip("psycopg", reason="the PostgreSQL driver is not installed")
    binaries = _binaries()
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


def new_database(folder: Path) -> str:
    """The address of a new, empty database on the server whose socket is in that folder."""
    import psycopg

    name = f"test_{uuid4().hex}"
    with psycopg.connect(host=str(folder), user="lmdyno", dbname="postgres", autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    return f"postgresql://lmdyno@/{name}?host={folder}"


def _binaries() -> Path | None:
    """The folder with initdb and postgres; Debian keeps it out of PATH."""
    if initdb := shutil.which("initdb"):
        return Path(initdb).resolve().parent
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
