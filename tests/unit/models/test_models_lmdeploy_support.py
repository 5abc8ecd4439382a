"""The installed LMDeploy's own tables, read without importing it."""

import sys

import pytest

from core.models import lmdeploy_support as module
from core.models.lmdeploy_support import lmdeploy_support


@pytest.fixture
def package(tmp_path, monkeypatch):
    """An `lmdeploy` of the given files, on the path of this interpreter."""

    def write(**files):
        folder = tmp_path / "lmdeploy"
        texts = {
            "__init__.py": "raise SystemExit('imported')",
            "version.py": "__version__ = '9.9.0'\n",
            "turbomind/supported_models.py": "SUPPORTED_ARCHS = dict(LlamaForCausalLM='llama')\n",
            "pytorch/models/module_map.py": "MODULE_MAP = dict()\n"
            "MODULE_MAP.update({'PhiForCausalLM': f'{X}.p'})\n",
            **{name.replace("__", "/") + ".py": text for name, text in files.items()},
        }
        for name, text in texts.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        monkeypatch.setattr(module, "_own_folder", lambda: folder)
        return folder

    return write


def test_both_tables(package):
    package()
    support = lmdeploy_support()

    assert support.version == "9.9.0"
    assert support.turbomind == {"LlamaForCausalLM"}
    assert support.pytorch == {"PhiForCausalLM"}


def test_tables_in_other_forms(package):
    package(
        turbomind__supported_models="SUPPORTED_ARCHS: dict[str, str] = {'A': 'a', 'B': 'b'}\n",
        pytorch__models__module_map="MODULE_MAP = {'C': 'c'}\nOTHER = {}\nOTHER.update({'D': 'd'})\n",
    )
    support = lmdeploy_support()
    assert (support.turbomind, support.pytorch) == ({"A", "B"}, {"C"})


@pytest.mark.parametrize("text", ["def supported(): ...\n", "SUPPORTED_ARCHS = load()\n", "not python ("])
def test_a_version_with_other_tables_leaves_it_unknown(package, text):
    package(turbomind__supported_models=text)
    assert lmdeploy_support() is None


def test_without_lmdeploy_nothing_is_known(monkeypatch):
    monkeypatch.setattr(module, "_own_folder", lambda: None)
    assert lmdeploy_support() is None


def test_another_interpreter_is_asked_where_its_own_is(package, tmp_path):
    folder = package()
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\necho {folder}/__init__.py\n")
    python.chmod(0o755)
    assert lmdeploy_support(str(python)).version == "9.9.0"
    assert lmdeploy_support(str(tmp_path / "missing")) is None


@pytest.mark.skipif(lmdeploy_support() is None, reason="LMDeploy is not installed")
def test_the_installed_one_has_what_lanes_are_made_of():
    support = lmdeploy_support(sys.executable)
    assert {
        "LlamaForCausalLM",
        "Qwen3_5MoeForConditionalGeneration",
        "InternVLChatModel",
    } <= support.turbomind
    assert {"LlavaForConditionalGeneration", "InternS1ForConditionalGeneration"} <= support.pytorch
    assert "LlavaForConditionalGeneration" not in support.turbomind
