"""Preparing the demo vision model: once, from what is shipped, over the demo weights."""

import json
import threading
import time
from pathlib import Path

import pytest

from core.config import demo_model, demo_vision_model
from core.errors import ModelError
from core.models.demo import text as demo_text
from core.models.demo import vision as demo_vision
from core.models.demo.vision_assemble import with_image_token
from core.settings import load_settings


@pytest.fixture
def settings(tmp_path):
    return load_settings({"LMDYNO_HOME": str(tmp_path / "home")})


@pytest.fixture
def shipped(tmp_path, monkeypatch):
    folder = tmp_path / "shipped"
    folder.mkdir()
    (folder / "part-1.safetensors.xz").write_bytes(b"weights")
    (folder / "architecture.json").write_text("{}", "utf-8")
    monkeypatch.setattr(demo_vision, "SHIPPED_DIR", folder)
    return folder


@pytest.fixture
def assembled(settings, monkeypatch):
    """Quick stand-ins for the demo weights and for assembling; the list has its calls."""
    calls: list[list[str]] = []

    def assemble(module, arguments, log_file, report):
        time.sleep(0.05)
        for name in ("config.json", "model.safetensors", "tokenizer.json"):
            (Path(arguments[2]) / name).touch()
        calls.append(list(arguments))

    monkeypatch.setattr(demo_vision, "run_child", assemble)
    monkeypatch.setattr(demo_text, "prepare", lambda settings, report: demo_model(settings))
    return calls


def test_it_is_made_once_from_what_is_shipped(settings, shipped, assembled):
    assert not demo_vision.is_prepared(settings)
    model = demo_vision.prepare(settings, lambda line: None)
    assert model == demo_vision_model(settings)
    assert demo_vision.is_prepared(settings)
    demo_vision.prepare(settings, lambda line: None)
    assert [call[:2] for call in assembled] == [[str(shipped), demo_model(settings).checkpoint]]
    note = json.loads((Path(model.checkpoint) / "provenance.json").read_text("utf-8"))
    assert note["source"]["licence"] == "Apache-2.0"


def test_other_shipped_weights_make_it_anew(settings, shipped, assembled):
    demo_vision.prepare(settings, lambda line: None)
    time.sleep(0.01)
    (shipped / "part-1.safetensors.xz").write_bytes(b"Weights")
    assert not demo_vision.is_prepared(settings)
    demo_vision.prepare(settings, lambda line: None)
    assert len(assembled) == 2
    assert demo_vision.is_prepared(settings)


def test_without_the_shipped_files_it_says_where_they_come_from(settings, shipped, assembled):
    for path in shipped.iterdir():
        path.unlink()
    with pytest.raises(ModelError) as caught:
        demo_vision.prepare(settings, lambda line: None)
    assert caught.value.code == "shipped-files-missing"
    assert "repository" in caught.value.hint
    assert assembled == []


def test_threads_that_ask_together_make_it_once(settings, shipped, assembled):
    threads = [
        threading.Thread(target=demo_vision.prepare, args=(settings, lambda line: None)) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(assembled) == 1


def test_a_failed_assembling_leaves_nothing(settings, shipped, assembled, monkeypatch):
    def fail(*_: object) -> None:
        raise ModelError("no", hint="no")

    monkeypatch.setattr(demo_vision, "run_child", fail)
    with pytest.raises(ModelError):
        demo_vision.prepare(settings, lambda line: None)
    assert not demo_vision.is_prepared(settings)
    assert list(settings.models_dir.iterdir()) == []


def test_a_tokenizer_without_the_unused_token_is_refused():
    with pytest.raises(ValueError, match="16"):
        with_image_token({"model": {"vocab": {"a": 0}}, "added_tokens": []})


def test_what_is_shipped_stays_small():
    parts = sorted(demo_vision.SHIPPED_DIR.glob("part-*.safetensors.xz"))
    assert parts
    assert sum(path.stat().st_size for path in parts) <= 29e6


def test_the_measured_accuracy_reaches_what_it_was_made_for():
    record = json.loads((demo_vision.SHIPPED_DIR / "training.json").read_text("utf-8"))
    shares = {topic: row["share"] for topic, row in record["accuracy"].items()}
    assert min(shares["color"], shares["shape"], shares["position"]) >= 0.9
    assert shares["count"] >= 0.75
    card = (demo_vision.SHIPPED_DIR / "README.md").read_text("utf-8")
    assert f"{shares['shape']:.1%}" in card
    assert "simple drawn scenes only" in card
