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
from core.images.sanitise import sanitise
from core.images.store import ImageStore
from core.settings import PROJECT_ROOT
from tests.unit.images.image_files import colourful, corners, encoded, four_corners, opened


@pytest.fixture
def image_store(tmp_path):
    return ImageStore(tmp_path / "home" / "images")


@pytest.fixture
def drawing():
    return sanitise(encoded(four_corners(), "PNG"), name="corners.png")


@pytest.fixture
def photo():
    return sanitise(encoded(colourful(), "JPEG"), name="photo.jpg")


def files_in(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def the_file(image_store, image) -> Path:
    return image_store._folder / image.sha256[:2] / image.sha256


def test_what_is_put_can_be_read(image_store, drawing, photo):
    for checked in (drawing, photo):
        assert image_store.put(checked) == checked.image
        assert image_store.read(checked.image) == checked.data
    assert files_in(image_store._folder) == sorted(the_file(image_store, c.image) for c in (drawing, photo))


def test_the_same_image_is_one_file_whatever_its_name(image_store, drawing):
    image_store.put(drawing)
    before = the_file(image_store, drawing.image).stat()
    other = sanitise(encoded(four_corners(), "BMP"), name="other.bmp")
    assert image_store.put(other).name == "other.bmp"
    assert the_file(image_store, drawing.image).stat().st_ino == before.st_ino
    assert len(files_in(image_store._folder)) == 1


def test_files_are_private(image_store, drawing):
    image_store.put(drawing)
    assert the_file(image_store, drawing.image).stat().st_mode & 0o777 == 0o600


def test_data_urls_hold_type_and_bytes(image_store, drawing, photo):
    for checked, media_type in ((drawing, "image/png"), (photo, "image/jpeg")):
        head, _, body = image_store.data_url(image_store.put(checked)).partition(",")
        assert head == f"data:{media_type};base64"
        assert base64.b64decode(body) == checked.data


def test_the_type_of_a_data_url_is_that_of_the_bytes(image_store, drawing):
    claimed = replace(image_store.put(drawing), media_type="text/html")
    assert image_store.data_url(claimed).startswith("data:image/png;base64,")


def test_an_image_that_is_gone_says_so_and_has_no_thumbnail(image_store, drawing):
    image = image_store.put(drawing)
    assert image_store.thumbnail(image, 16)
    the_file(image_store, image).unlink()
    for use in (image_store.read, image_store.data_url):
        with pytest.raises(StoreError, match=r"Image corners\.png is no longer") as caught:
            use(image)
        assert caught.value.code == "image-missing"
    assert image_store.thumbnail(image, 16) is None


@pytest.mark.parametrize("damage", [b"", b"something else"])
def test_a_changed_file_is_noticed_and_mended_by_the_next_put(image_store, drawing, damage):
    image = image_store.put(drawing)
    the_file(image_store, image).write_bytes(damage)
    with pytest.raises(StoreError) as caught:
        image_store.read(image)
    assert caught.value.code == "image-missing"
    assert image_store.thumbnail(image, 16) is None
    image_store.put(drawing)
    assert image_store.read(image) == drawing.data


@pytest.mark.parametrize("sha256", ["", "../../secret", "/etc/passwd", "A" * 64, "0" * 63, "0" * 64 + "\n"])
def test_what_is_no_hash_is_no_path(image_store, drawing, sha256):
    image_store.put(drawing)
    (image_store._folder.parent / "secret").write_bytes(b"secret")
    forged = replace(drawing.image, sha256=sha256)
    with pytest.raises(StoreError) as caught:
        image_store.read(forged)
    assert caught.value.code == "image-missing"
    assert image_store.thumbnail(forged, 16) is None


def age(image_store, image) -> None:
    """As if it had been put two days ago."""
    then_s = time.time() - 2 * 86_400
    os.utime(the_file(image_store, image), (then_s, then_s))


def a_day_ago() -> datetime:
    return datetime.now(UTC) - timedelta(days=1)


def test_images_are_removed_by_their_hashes(image_store, drawing, photo):
    for checked in (drawing, photo):
        age(image_store, image_store.put(checked))
    hashes = [drawing.image.sha256, "0" * 64, "../../secret"]
    assert image_store.remove(hashes, put_before=a_day_ago()) == 1
    assert files_in(image_store._folder) == [the_file(image_store, photo.image)]
    assert image_store.thumbnail(drawing.image, 16) is None


def test_an_image_that_was_put_again_is_not_removed(image_store, drawing):
    age(image_store, image_store.put(drawing))
    image_store.put(drawing)
    assert image_store.remove([drawing.image.sha256], put_before=a_day_ago()) == 0
    assert image_store.read(drawing.image) == drawing.data


def test_an_image_that_is_put_again_while_it_is_being_removed_stays(image_store, drawing, monkeypatch):
    age(image_store, image_store.put(drawing))
    rename = Path.rename

    def put_before_it(path, target):
        monkeypatch.setattr(Path, "rename", rename)
        image_store.put(drawing)
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", put_before_it)
    assert image_store.remove([drawing.image.sha256], put_before=a_day_ago()) == 0
    assert image_store.read(drawing.image) == drawing.data
    assert files_in(image_store._folder) == [the_file(image_store, drawing.image)]


def test_an_image_that_can_not_be_removed_keeps_no_other(image_store, drawing, photo, monkeypatch):
    for checked in (drawing, photo):
        age(image_store, image_store.put(checked))
    rename = Path.rename

    def refuse(path, target):
        if path.name == drawing.image.sha256:
            raise PermissionError(13, "Permission denied")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", refuse)
    hashes = [drawing.image.sha256, photo.image.sha256]
    assert image_store.remove(hashes, put_before=a_day_ago()) == 1
    assert files_in(image_store._folder) == [the_file(image_store, drawing.image)]


def test_thumbnails_keep_the_shape_and_fit(image_store, drawing, photo):
    small = opened(image_store.thumbnail(image_store.put(drawing), 32))
    assert (small.size, small.format) == ((32, 16), "PNG")
    assert corners(small) == corners(four_corners())
    assert opened(image_store.thumbnail(image_store.put(photo), 100)).size == (100, 75)
    assert opened(image_store.thumbnail(photo.image, 100)).format == "JPEG"
    assert opened(image_store.thumbnail(drawing.image, 500)).size == (64, 32)  # never blown up


def test_a_file_in_the_folder_s_place(image_store, drawing):
    image_store._folder.parent.mkdir(parents=True)
    image_store._folder.write_bytes(b"")
    with pytest.raises(StoreError) as caught:
        image_store.put(drawing)
    assert caught.value.code == "image-not-stored"
    assert str(image_store._folder) in caught.value.hint


def test_a_failed_write_leaves_nothing_behind(image_store, drawing, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(StoreError, match="No space left on device"):
        image_store.put(drawing)
    assert files_in(image_store._folder) == []


def test_many_threads_put_and_read_the_same_images(image_store, drawing, photo):
    failures, start = [], threading.Barrier(8)

    def work() -> None:
        start.wait()
        try:
            for checked in (drawing, photo) * 20:
                assert image_store.read(image_store.put(checked)) == checked.data
                assert image_store.thumbnail(checked.image, 24)
        except (LMDynoError, AssertionError) as exc:
            failures.append(exc)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert len(files_in(image_store._folder)) == 2


PROGRAM = """
import sys
from pathlib import Path
from core.images.sanitise import sanitise
from core.images.store import ImageStore

folder, data = Path(sys.argv[1]), Path(sys.argv[2]).read_bytes()
checked, image_store = sanitise(data), ImageStore(folder)
path = folder / checked.image.sha256[:2] / checked.image.sha256
print("ready", flush=True)
sys.stdin.readline()
for _ in range(200):
    image_store.put(checked)
    try:
        assert path.read_bytes() == checked.data
    except FileNotFoundError:
        pass  # the other one took it away
    path.unlink(missing_ok=True)
image_store.put(checked)
"""


def test_two_processes_never_show_each_other_half_a_file(image_store, tmp_path, photo):
    original = tmp_path / "original.jpg"
    original.write_bytes(encoded(colourful(), "JPEG"))
    command = [sys.executable, "-c", PROGRAM, str(image_store._folder), str(original)]
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
    assert image_store.read(image_store.put(photo)) == photo.data
    assert files_in(image_store._folder) == [the_file(image_store, photo.image)]
