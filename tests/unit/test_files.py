import os
import stat

import pytest

from core.files import keep_upload, private_folder, write_private


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
