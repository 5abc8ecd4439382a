"""Files by hash: written once, whole or not at all, whoever writes; and what happens when they are gone."""

import base64
import os
import subprocess
import sys
import threading
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from core.errors import LMDynoError, StoreError
from core.pictures.intake import take_in
from core.pictures.shelf import Shelf
from core.settings import PROJECT_ROOT
from tests.unit.pictures.picture_files import colourful, corners, encoded, four_corners, opened


@pytest.fixture
def shelf(tmp_path):
    return Shelf(tmp_path / "home" / "pictures")


@pytest.fixture
def drawing():
    return take_in(encoded(four_corners(), "PNG"), name="corners.png")


@pytest.fixture
def photo():
    return take_in(encoded(colourful(), "JPEG"), name="photo.jpg")


def files_in(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def the_file(shelf, picture) -> Path:
    return shelf._folder / picture.sha256[:2] / picture.sha256


def test_what_is_put_can_be_read(shelf, drawing, photo):
    for checked in (drawing, photo):
        assert shelf.put(checked) == checked.picture
        assert shelf.read(checked.picture) == checked.data
    assert files_in(shelf._folder) == sorted(the_file(shelf, c.picture) for c in (drawing, photo))


def test_the_same_picture_is_one_file_whatever_its_name(shelf, drawing):
    shelf.put(drawing)
    before = the_file(shelf, drawing.picture).stat()
    other = take_in(encoded(four_corners(), "BMP"), name="other.bmp")
    assert shelf.put(other).name == "other.bmp"
    assert the_file(shelf, drawing.picture).stat().st_ino == before.st_ino
    assert len(files_in(shelf._folder)) == 1


def test_files_are_private(shelf, drawing):
    shelf.put(drawing)
    assert the_file(shelf, drawing.picture).stat().st_mode & 0o777 == 0o600


def test_data_urls_hold_type_and_bytes(shelf, drawing, photo):
    for checked, media_type in ((drawing, "image/png"), (photo, "image/jpeg")):
        head, _, body = shelf.data_url(shelf.put(checked)).partition(",")
        assert head == f"data:{media_type};base64"
        assert base64.b64decode(body) == checked.data


def test_the_type_of_a_data_url_is_that_of_the_bytes(shelf, drawing):
    claimed = replace(shelf.put(drawing), media_type="text/html")
    assert shelf.data_url(claimed).startswith("data:image/png;base64,")


def test_a_picture_that_is_gone_says_so_and_has_no_thumbnail(shelf, drawing):
    picture = shelf.put(drawing)
    assert shelf.thumbnail(picture, 16)
    the_file(shelf, picture).unlink()
    for use in (shelf.read, shelf.data_url):
        with pytest.raises(StoreError, match=r"The picture corners\.png is no longer") as caught:
            use(picture)
        assert caught.value.code == "picture-missing"
    assert shelf.thumbnail(picture, 16) is None


@pytest.mark.parametrize("damage", [b"", b"something else"])
def test_a_changed_file_is_noticed_and_mended_by_the_next_put(shelf, drawing, damage):
    picture = shelf.put(drawing)
    the_file(shelf, picture).write_bytes(damage)
    with pytest.raises(StoreError) as caught:
        shelf.read(picture)
    assert caught.value.code == "picture-missing"
    assert shelf.thumbnail(picture, 16) is None
    shelf.put(drawing)
    assert shelf.read(picture) == drawing.data


@pytest.mark.parametrize("sha256", ["", "../../secret", "/etc/passwd", "A" * 64, "0" * 63, "0" * 64 + "\n"])
def test_what_is_no_hash_is_no_path(shelf, drawing, sha256):
    shelf.put(drawing)
    (shelf._folder.parent / "secret").write_bytes(b"secret")
    forged = replace(drawing.picture, sha256=sha256)
    with pytest.raises(StoreError) as caught:
        shelf.read(forged)
    assert caught.value.code == "picture-missing"
    assert shelf.thumbnail(forged, 16) is None


def age(shelf, picture) -> None:
    """As if it had been put two days ago."""
    then_s = time.time() - 2 * 86_400
    os.utime(the_file(shelf, picture), (then_s, then_s))


def a_day_ago() -> datetime:
    return datetime.now(UTC) - timedelta(days=1)


def test_pictures_are_removed_by_their_hashes(shelf, drawing, photo):
    for checked in (drawing, photo):
        age(shelf, shelf.put(checked))
    hashes = [drawing.picture.sha256, "0" * 64, "../../secret"]
    assert shelf.remove(hashes, put_before=a_day_ago()) == 1
    assert files_in(shelf._folder) == [the_file(shelf, photo.picture)]
    assert shelf.thumbnail(drawing.picture, 16) is None


def test_a_picture_that_was_put_again_is_not_removed(shelf, drawing):
    age(shelf, shelf.put(drawing))
    shelf.put(drawing)
    assert shelf.remove([drawing.picture.sha256], put_before=a_day_ago()) == 0
    assert shelf.read(drawing.picture) == drawing.data


def test_a_picture_that_is_put_again_while_it_is_being_removed_stays(shelf, drawing, monkeypatch):
    age(shelf, shelf.put(drawing))
    rename = Path.rename

    def put_before_it(path, target):
        monkeypatch.setattr(Path, "rename", rename)
        shelf.put(drawing)
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", put_before_it)
    assert shelf.remove([drawing.picture.sha256], put_before=a_day_ago()) == 0
    assert shelf.read(drawing.picture) == drawing.data
    assert files_in(shelf._folder) == [the_file(shelf, drawing.picture)]


def test_a_picture_that_can_not_be_removed_keeps_no_other(shelf, drawing, photo, monkeypatch):
    for checked in (drawing, photo):
        age(shelf, shelf.put(checked))
    rename = Path.rename

    def refuse(path, target):
        if path.name == drawing.picture.sha256:
            raise PermissionError(13, "Permission denied")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", refuse)
    hashes = [drawing.picture.sha256, photo.picture.sha256]
    assert shelf.remove(hashes, put_before=a_day_ago()) == 1
    assert files_in(shelf._folder) == [the_file(shelf, drawing.picture)]


def test_thumbnails_keep_the_shape_and_fit(shelf, drawing, photo):
    small = opened(shelf.thumbnail(shelf.put(drawing), 32))
    assert (small.size, small.format) == ((32, 16), "PNG")
    assert corners(small) == corners(four_corners())
    assert opened(shelf.thumbnail(shelf.put(photo), 100)).size == (100, 75)
    assert opened(shelf.thumbnail(photo.picture, 100)).format == "JPEG"
    assert opened(shelf.thumbnail(drawing.picture, 500)).size == (64, 32)  # never blown up


def test_a_file_in_the_folder_s_place(shelf, drawing):
    shelf._folder.parent.mkdir(parents=True)
    shelf._folder.write_bytes(b"")
    with pytest.raises(StoreError) as caught:
        shelf.put(drawing)
    assert caught.value.code == "picture-not-stored"
    assert str(shelf._folder) in caught.value.hint


def test_a_failed_write_leaves_nothing_behind(shelf, drawing, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(StoreError, match="No space left on device"):
        shelf.put(drawing)
    assert files_in(shelf._folder) == []


def test_many_threads_put_and_read_the_same_pictures(shelf, drawing, photo):
    failures, start = [], threading.Barrier(8)

    def work() -> None:
        start.wait()
        try:
            for checked in (drawing, photo) * 20:
                assert shelf.read(shelf.put(checked)) == checked.data
                assert shelf.thumbnail(checked.picture, 24)
        except (LMDynoError, AssertionError) as exc:
            failures.append(exc)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert len(files_in(shelf._folder)) == 2


PROGRAM = """
import sys
from pathlib import Path
from core.pictures.intake import take_in
from core.pictures.shelf import Shelf

folder, data = Path(sys.argv[1]), Path(sys.argv[2]).read_bytes()
checked, shelf = take_in(data), Shelf(folder)
path = folder / checked.picture.sha256[:2] / checked.picture.sha256
print("ready", flush=True)
sys.stdin.readline()
for _ in range(200):
    shelf.put(checked)
    try:
        assert path.read_bytes() == checked.data
    except FileNotFoundError:
        pass  # the other one took it away
    path.unlink(missing_ok=True)
shelf.put(checked)
"""


def test_two_processes_never_show_each_other_half_a_file(shelf, tmp_path, photo):
    original = tmp_path / "original.jpg"
    original.write_bytes(encoded(colourful(), "JPEG"))
    command = [sys.executable, "-c", PROGRAM, str(shelf._folder), str(original)]
    workers = [
        subprocess.Popen(command, cwd=PROJECT_ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    for worker in workers:
        assert worker.stdout.readline() == "ready\n"
    for worker in workers:
        worker.stdin.write("go\n")
        worker.stdin.flush()
    for worker in workers:
        worker.communicate(timeout=60)
    assert [worker.returncode for worker in workers] == [0, 0]
    assert shelf.read(shelf.put(photo)) == photo.data
    assert files_in(shelf._folder) == [the_file(shelf, photo.picture)]
