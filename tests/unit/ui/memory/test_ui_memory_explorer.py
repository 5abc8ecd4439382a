"""Models that the memory page predicts for by a name, a folder, or a hub id."""

import json

import pytest

from core.config import LaneRegistry
from core.errors import InputError
from core.ui.memory.explorer import sizes_of
from core.ui.shared import resources
from tests.unit.models import model_configs as published


@pytest.fixture(autouse=True)
def lanes(monkeypatch):
    monkeypatch.setattr(resources, "lanes", lambda: LaneRegistry(models=(), lanes=(), source=None))


def test_a_common_model():
    assert sizes_of("Llama-3.1-8B", awq=False).weight_bytes == pytest.approx(16.06e9, rel=0.001)


@pytest.mark.parametrize("name", ["", "config.json"])
def test_a_folder_or_file_with_nothing_but_a_config(tmp_path, name):
    (tmp_path / "config.json").write_text(json.dumps(published.LLAMA_3_1_8B))

    sizes = sizes_of(str(tmp_path / name), awq=False)

    assert sizes.counted
    assert sizes.weight_bytes == pytest.approx(16.06e9, rel=0.001)


def test_a_hub_id_that_is_not_here_says_how_to_get_its_config():
    with pytest.raises(InputError, match="org/never-downloaded is not on this machine") as caught:
        sizes_of("org/never-downloaded", awq=False)
    assert "hf download org/never-downloaded config.json" in caught.value.hint
