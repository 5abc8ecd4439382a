import sys
from types import ModuleType, SimpleNamespace

import pytest

from core.engines.launch import serve_transformers


@pytest.fixture
def libraries(monkeypatch) -> SimpleNamespace:
    """Stand-ins for gguf and transformers that count what is read; they too look names up late."""
    seen = SimpleNamespace(opened=[], maps=[])
    gguf, reading, transformers = (
        ModuleType(name) for name in ("gguf", "modeling_gguf_pytorch_utils", "transformers")
    )

    def open_file(path):
        seen.opened.append(path)
        return {"path": path}

    def load_gguf_checkpoint(path, return_tensors=False, model_to_load=None):
        header = gguf.GGUFReader(path)
        gguf.get_tensor_name_map("llama", 30)
        return {"config": dict(header), "tensors": model_to_load if return_tensors else None}

    gguf.GGUFReader = open_file
    gguf.get_tensor_name_map = lambda *key: seen.maps.append(key)
    reading.load_gguf_checkpoint = load_gguf_checkpoint
    transformers.modeling_gguf_pytorch_utils = reading
    for module in (gguf, transformers):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    serve_transformers.read_gguf_files_once()
    return SimpleNamespace(seen=seen, reading=reading)


def test_one_start_parses_a_file_once(libraries):
    load = libraries.reading.load_gguf_checkpoint
    assert load("a.gguf")["config"] == load("a.gguf", return_tensors=False)["config"] == {"path": "a.gguf"}
    assert load("a.gguf", return_tensors=True, model_to_load="model")["tensors"] == "model"
    assert libraries.seen.opened == ["a.gguf"]
    assert libraries.seen.maps == [("llama", 30)]


def test_header_of_one_file_is_not_anothers(libraries):
    load = libraries.reading.load_gguf_checkpoint
    assert load("a.gguf")["config"] != load("b.gguf")["config"]


def test_what_a_caller_changes_stays_its_own(libraries):
    load = libraries.reading.load_gguf_checkpoint
    load("a.gguf")["config"].clear()
    assert load("a.gguf")["config"] == {"path": "a.gguf"}


def test_parsed_header_is_let_go_with_the_weights(libraries):
    load = libraries.reading.load_gguf_checkpoint
    load("a.gguf", return_tensors=True)
    load("a.gguf", return_tensors=True)
    assert libraries.seen.opened == ["a.gguf", "a.gguf"]
