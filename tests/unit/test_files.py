import os
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from core.files import close_to_others, keep_upload, private_folder, write_atomically, write_private
from core.settings import PROJECT_ROOT


@pytest.fixture(autouse=True)
def generous_umask():
    before = os.umask(0)
    yield
    os.umask(before)


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def test_folders_and_files_are_for_their_owner_alone(tmp_path):
    folder = private_folder(tmp_path / "home" / "jobs")
    file = folder / "state.json"
    write_private(file, b"{}")
    assert [mode(path) for path in (folder.parent, folder, file)] == [0o700, 0o700, 0o600]


def test_a_file_that_others_could_read_is_closed_to_them(tmp_path):
    file = tmp_path / "lanes.local.toml"
    file.write_text("long and old")
    write_private(file, b"new")
    assert mode(file) == 0o600
    assert file.read_bytes() == b"new"


@pytest.mark.parametrize("name", ["../../etc/passwd.txt", "/abs/passwd.txt", "..", "a b\x00.txt", "х" * 300])
def test_the_name_of_an_upload_never_leads_out_of_the_folder(tmp_path, name):
    path = keep_upload(tmp_path / "kept", name, b"data", nameless="upload.txt")
    assert path.resolve().parent.parent == (tmp_path / "kept").resolve()
    assert path.read_bytes() == b"data"
    assert keep_upload(tmp_path / "kept", name, b"data", nameless="upload.txt") == path


def test_what_earlier_versions_left_open_is_closed(tmp_path):
    home, outside = tmp_path / "home", tmp_path / "weights"
    (home / "jobs").mkdir(parents=True, mode=0o777)
    (home / "jobs" / "log").touch(mode=0o644)
    outside.touch(mode=0o644)
    (home / "link").symlink_to(outside)
    close_to_others(home)
    assert [mode(path) for path in (home, home / "jobs", home / "jobs" / "log")] == [0o700, 0o700, 0o600]
    assert mode(outside) == 0o644


def test_a_home_that_is_not_there_yet_is_made_closed(tmp_path):
    close_to_others(tmp_path / "new" / "home")
    assert mode(tmp_path / "new" / "home") == 0o700


def test_the_command_line_leaves_nothing_open_but_what_was_asked_for(tmp_path):
    home, out = tmp_path / "home", tmp_path / "turns.json"
    program = (
        "import os, sys; os.umask(0o022); sys.argv = ['lmdyno', 'runs', 'list'];"
        "from pathlib import Path;"
        "from core.__main__ import main; from core.cli.terminal import write_file\n"
        "try:\n    main()\nfinally:\n    write_file(Path(sys.argv[0] and os.environ['OUT']), b'{}')"
    )
    subprocess.run(
        [sys.executable, "-c", program],
        cwd=PROJECT_ROOT,
        env={**os.environ, "LMDYNO_HOME": str(home), "OUT": str(out)},
        check=True,
        capture_output=True,
        timeout=120,
    )
    found = [home, *home.rglob("*")]
    assert any(path.name == "lmdyno.db" for path in found)
    assert {mode(path) for path in found if path.is_dir()} == {0o700}
    assert {mode(path) for path in found if path.is_file()} == {0o600}
    assert mode(out) == 0o644


def test_a_file_is_replaced_as_a_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "new" / "state.json"
    write_atomically(path, b"old")

    def interrupted(_draft, _target):
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, b"new")

    assert path.read_bytes() == b"old"
    assert list(path.parent.iterdir()) == [path]
    assert (mode(path.parent), mode(path)) == (0o700, 0o600)


def test_files_that_several_threads_replace_are_never_half_written(tmp_path):
    path = tmp_path / "state.json"
    contents = [bytes([letter]) * 100_000 for letter in b"abcd"]
    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(write_atomically, path, content) for content in contents * 5]:
            done.result()

    assert path.read_bytes() in contents
    assert list(tmp_path.iterdir()) == [path]
