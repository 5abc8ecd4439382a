"""Each version is pinned once in fact: pyproject.toml, the requirements files and the lock agree."""

import ast
import re
import subprocess
import sys
import tomllib
from importlib import import_module
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

import core

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
PYTHONS = ("3.11.0", "3.12.0", "3.13.0")
ENGINE_LIBRARIES = {
    *("torch", "transformers", "lmdeploy", "gguf", "safetensors", "sentencepiece", "tokenizers"),
    "openai",  # comes with transformers' and LMDeploy's servers
    "ray",
}
"""Imported in processes of their own only, most of which may have an environment of their own."""
MACHINES = (("linux", "x86_64"), ("linux", "aarch64"), ("darwin", "arm64"))


def requirements(name: str) -> list[str]:
    """The requirements of a file, without its comments and the files it includes."""
    lines = (line.split(" #")[0].strip() for line in (ROOT / name).read_text("utf-8").splitlines())
    return [str(Requirement(line)) for line in lines if line and not line.startswith(("#", "-r "))]


def declared(lines: list[str]) -> list[str]:
    return [str(Requirement(line)) for line in lines]


def locked() -> list[tuple[Requirement, int]]:
    """Every requirement of the lock with the number of its hashes."""
    text = (ROOT / "requirements.lock").read_text("utf-8").replace("\\\n", " ")
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    return [(Requirement(line.split(" --hash")[0]), line.count("--hash=sha256:")) for line in lines]


LOCKED = locked()


def test_the_requirements_are_the_dependencies_and_the_engines():
    assert requirements("requirements.txt") == declared([*PROJECT["dependencies"], *EXTRAS["engines"]])


def test_the_development_requirements_are_the_dev_extra():
    assert requirements("requirements-dev.txt") == declared(EXTRAS["dev"])


def test_the_documentation_requirements_are_the_docs_extra():
    assert requirements("requirements-docs.txt") == declared(EXTRAS["docs"])


def test_the_replay_takes_the_dashboards_own_versions_and_no_engine():
    own = {Requirement(line).name: Requirement(line).specifier for line in declared(PROJECT["dependencies"])}
    replay = [Requirement(line) for line in requirements("requirements-replay.txt")]
    assert {pin.name: pin.specifier for pin in replay}.items() <= own.items()
    assert not any(pin.extras for pin in replay)
    assert set(own) - {pin.name for pin in replay} == {"typer", "rich"}


@pytest.mark.parametrize(
    "line", [line for part in ("", "-dev", "-docs") for line in requirements(f"requirements{part}.txt")]
)
def test_every_requirement_is_pinned_and_locked(line):
    requirement = Requirement(line)
    assert re.fullmatch(r"==[\w.]+", str(requirement.specifier))
    pins = [pin for pin, _ in LOCKED if canonicalize_name(pin.name) == canonicalize_name(requirement.name)]
    assert [str(pin.specifier) for pin in pins] == [str(requirement.specifier)], "run `make lock`"


def test_the_lock_pins_one_hashed_version_per_package_machine_and_python():
    for python in PYTHONS:
        for system, machine in MACHINES:
            environment = {
                "python_version": python.rsplit(".", 1)[0],
                "python_full_version": python,
                "sys_platform": system,
                "platform_machine": machine,
                "implementation_name": "cpython",
                "platform_python_implementation": "CPython",
            }
            names = [pin.name for pin, _ in LOCKED if not pin.marker or pin.marker.evaluate(environment)]
            assert len(names) == len(set(names))
            assert ("lmdeploy" in names) == ((system, machine) == ("linux", "x86_64"))
    assert all(re.fullmatch(r"==[\w.]+", str(pin.specifier)) and hashes for pin, hashes in LOCKED)


def test_the_lock_names_no_registry():
    text = (ROOT / "requirements.lock").read_text("utf-8")
    assert "://" not in text
    assert not re.findall(r"^\s*--(?!hash=sha256:)\S+|@|\b\w+\.(?:org|com|net|io|dev)\b", text, re.MULTILINE)


def test_the_command_and_the_version_are_the_codes_own():
    module, _, function = PROJECT["scripts"]["lmdyno"].partition(":")
    assert callable(getattr(import_module(module), function))
    assert "version" in PROJECT["dynamic"]
    assert re.fullmatch(r"\d+\.\d+\.\d+", core.__version__)


def test_the_lock_covers_every_python_that_is_allowed():
    assert all(version in SpecifierSet(PROJECT["requires-python"]) for version in PYTHONS)


def test_every_imported_package_is_declared():
    """Packages that only come along with another one may go with its next version."""
    distributions = packages_distributions()
    declared_names = {canonicalize_name(Requirement(line).name) for line in PROJECT["dependencies"]}
    imported = {
        name.split(".")[0]
        for path in [*ROOT.glob("core/**/*.py"), *ROOT.glob("pages/*.py"), ROOT / "streamlit_app.py"]
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        for name in imported_names(node)
    }
    foreign = imported - sys.stdlib_module_names - ENGINE_LIBRARIES - {"core"}
    assert not [
        name
        for name in foreign
        if not {canonicalize_name(package) for package in distributions[name]} & declared_names
    ]


def imported_names(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    return [node.module] if isinstance(node, ast.ImportFrom) and node.module else []


def test_the_tracked_files_stay_below_36_mib():
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a Git checkout")
    paths = [ROOT / name for name in listed.stdout.split("\0") if name]
    sizes = {path: path.stat().st_size for path in paths if path.is_file()}
    largest = sorted(sizes, key=lambda path: sizes[path], reverse=True)[:5]
    assert sum(sizes.values()) < 36 * 2**20, [str(path.relative_to(ROOT)) for path in largest]
