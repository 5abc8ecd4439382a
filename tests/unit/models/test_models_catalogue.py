"""What lies in the models folder, and what does not count."""

import json

from core.domain.specs import Weights
from core.models.catalogue import list_models
from core.settings import load_settings


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
