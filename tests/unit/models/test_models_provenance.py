"""What is kept on how a checkpoint was made."""

import json
import time

import pytest

from core.domain.specs import Weights
from core.models.provenance import PROVENANCE_FILE, list_models, read_provenance_note, write_provenance
from core.settings import load_settings


def test_provenance_says_from_what_and_with_what(tmp_path):
    began_s = time.time() - 2
    write_provenance(
        tmp_path, source={"file": "x"}, changes="padded", packages=("pytest", "not-there"), began_s=began_s
    )
    note = json.loads((tmp_path / PROVENANCE_FILE).read_text())
    assert note["source"] == {"file": "x"}
    assert note["versions"] == {"pytest": pytest.__version__, "not-there": None}
    assert 2 <= note["duration_s"] < 60


@pytest.mark.parametrize("content", [None, "{", "[]"])
def test_a_note_that_cannot_be_read_is_none(tmp_path, content):
    if content is not None:
        (tmp_path / PROVENANCE_FILE).write_text(content, "utf-8")

    assert read_provenance_note(tmp_path) is None


def fill(folder, **files):
    for name, text in files.items():
        path = folder / name.replace("__", "/").replace("_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def test_forms_sizes_and_origins(tmp_path):
    settings = load_settings({"LMDYNO_HOME": str(tmp_path)})
    assert list_models(settings) == ()

    note = {"source": {"package": "x"}}
    models = settings.models_dir
    fill(models / "demo", config_json="{}", model_safetensors="w" * 100, provenance_json=json.dumps(note))
    fill(models / "demo", gguf__q4_gguf="g" * 30)
    fill(models / "demo-awq", config_json="{}", model_safetensors="w" * 40, provenance_json="{broken")
    fill(models / "only-awq", config_json="{}")
    fill(models / ".demo.partial", config_json="{}")
    fill(models / "unfinished", model_safetensors="w")

    demo, only = list_models(settings)
    assert [(form.weights, form.size_bytes) for form in demo.forms] == [
        (Weights.CHECKPOINT, 102 + len(json.dumps(note))),
        (Weights.GGUF, 30),
        (Weights.AWQ, 42 + len("{broken")),
    ]
    assert demo.size_bytes == 174 + len(json.dumps(note)) + len("{broken")
    assert [form.provenance for form in demo.forms] == [note, note, None]
    assert (only.name, [form.weights for form in only.forms]) == ("only", [Weights.AWQ])
