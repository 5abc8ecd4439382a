"""Check that imports run one way, each library has one importing folder, and folders stay small."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterable
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

LAYERS = [
    {"core.i18n"},
    {
        "core.errors",
        "core.files",
        "core.units",
        "core.settings",
    },
    {"core.access", "core.process_setup"},
    {"core.domain"},
    {"core.codec", "core.config"},
    {"core.store", "core.telemetry", "core.images"},
    {"core.jobs"},
    {"core.models"},
    {"core.memory", "core.doctor"},
    {"core.chat_api"},
    {"core.engines"},
    {"core.cluster"},
    {"core.meter"},
    {"core.bench"},
    {"core.quality"},
    {"core.sessions", "core.walk"},
    {"core.replay"},
    {"core.charts"},
    {"core.reports"},
    {"core.ui", "core.cli"},
    {"pages", "core.__main__"},
    {"streamlit_app"},
]
"""Lower layers first: a module imports only its own folder and the folders of lower layers. Folders of one
layer don't import each other, apart from those listed in NEIGHBOURS."""

UI_LAYERS = [
    {"shared"},
    {"engines", "memory", "benchmark"},
    {"chat"},
    {"quality", "sessions", "replay"},
    {"history"},
    {"overview"},
]
"""The same order inside `core/ui`."""

MOST_MODULES = 17
"""Modules in one folder, `__init__.py` apart."""

NEIGHBOURS = {
    "core.settings": {"core.errors"},
    "core.config": {"core.codec"},
}

LIBRARY_HOMES = {
    "streamlit": ("core.ui", "pages", "streamlit_app"),
    "plotly": ("core.charts", "core.reports"),
    "aiohttp": ("core.chat_api",),
    "pynvml": ("core.telemetry.nvml",),
    "psutil": ("core.telemetry",),
    "sqlalchemy": ("core.store",),
    "alembic": ("core.store",),
    "typer": ("core.cli", "core.__main__"),
    "rich": ("core.cli", "core.__main__"),
    "pydantic": ("core.codec", "core.config"),
    "PIL": ("core.images",),
    "segno": ("core.ui.sessions",),
    "jinja2": ("core.reports",),
    "markupsafe": ("core.reports",),
    "evalica": ("core.sessions.statistics",),
    "krippendorff": ("core.sessions.statistics",),
    "jsonschema": ("core.quality.tasks",),
    "referencing": ("core.quality.tasks",),
    "ray": ("core.cluster.ray_fabric",),
    "prometheus_client": ("core.chat_api.servers", "core.cli.machine"),
}

ENGINE_LIBRARIES = {
    "torch",
    "transformers",
    "lmdeploy",
    "gguf",
    "safetensors",
    "sentencepiece",
    "tokenizers",
    "ray",
}
ENGINE_PROCESSES = {
    "core.cluster.ray_fabric",
    "core.engines.launch.serve_transformers",
    "core.engines.launch.serve_lmdeploy",
    "core.engines.launch.serve_replicas",
    "core.models.demo_checkpoints",
    "core.models.awq.rounding",
    "core.models.awq.quantiser",
    "core.models.awq.worker",
    "core.bench.bandwidth_worker",
    "core.walk.pipeline_program",
    "core.quality.engine_child",
}
"""Modules that run only as a child process of their own."""
ENGINE_FUNCTIONS = {"core.models.context", "core.models.internlm2"}
"""Modules that import one inside functions alone, for processes that measure or convert."""
ENGINE_ENTRIES = {
    "core.jobs.worker",
    "core.engines.launch.serve_transformers",
    "core.models.awq.quantiser",
    "core.bench.bandwidth_worker",
    "core.quality.engine_child",
}
"""What a lane's own Python starts, or needs to start: it may lack the packages of LMDyno."""


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


PATHS = [*ROOT.glob("core/**/*.py"), *ROOT.glob("pages/*.py"), ROOT / "streamlit_app.py"]


def imports(tree: ast.Module) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def at_import(tree: ast.Module) -> set[str]:
    """What importing the module imports at once."""
    top = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    return imports(ast.Module(top, []))


def packages(modules: Iterable[str]) -> set[str]:
    return {name.split(".")[0] for name in modules}


def folder(module: str) -> str:
    return "pages" if module.startswith("pages") else ".".join(module.split(".")[:2])


def layer(module: str) -> int:
    for number, folders in enumerate(LAYERS):
        if folder(module) in folders:
            return number
    raise AssertionError(f"{module} is in no layer: add its folder to LAYERS")


MODULES = {module_name(path): path for path in PATHS}


@cache
def source(module: str) -> ast.Module:
    return ast.parse(MODULES[module].read_text("utf-8"))


@cache
def imports_of(module: str) -> frozenset[str]:
    return frozenset(imports(source(module)))


def test_imports_run_one_way():
    wrong = []
    for module in MODULES:
        if module == "core":
            continue
        for other in imports_of(module):
            if other not in MODULES or folder(other) == folder(module) or other == "core":
                continue
            below = layer(other) < layer(module)
            if not below and folder(other) not in NEIGHBOURS.get(folder(module), set()):
                wrong.append(f"{module} imports {other}")
    assert not wrong


def test_csv_is_written_in_one_place():
    """The one that keeps spreadsheets from taking a text for a formula."""
    writing = {
        module
        for module in MODULES
        for node in ast.walk(source(module))
        if isinstance(node, ast.Attribute)
        and node.attr in ("DictWriter", "writer")
        and isinstance(node.value, ast.Name)
        and node.value.id == "csv"
    }
    assert writing == {"core.codec"}


def test_pages_never_import_pages():
    assert not [m for m in MODULES if any(name.startswith("pages") for name in imports_of(m))]


@pytest.mark.parametrize(("library", "homes"), LIBRARY_HOMES.items())
def test_a_foreign_library_has_one_home(library, homes):
    outside = [
        module
        for module in MODULES
        if any(name.split(".")[0] == library for name in imports_of(module))
        and not any(module == home or module.startswith(home + ".") for home in homes)
    ]
    assert not outside


def test_engine_libraries_stay_in_engine_processes():
    users = {module for module in MODULES if packages(imports_of(module)) & ENGINE_LIBRARIES}
    assert users <= ENGINE_PROCESSES | ENGINE_FUNCTIONS
    loading = {module for module in users if packages(at_import(source(module))) & ENGINE_LIBRARIES}
    assert not loading & ENGINE_FUNCTIONS


def test_the_dashboard_imports_no_engine_library():
    program = (
        "import sys, core.ui.shared.resources, core.ui.shared.shell, core.charts.requests\n"
        f"print(sorted({ENGINE_LIBRARIES!r} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("module", sorted(ENGINE_ENTRIES))
def test_a_python_without_packages_can_start_what_engines_need(module):
    program = f"import sys; sys.path.append({str(ROOT)!r}); import {module}"
    # Neither site-packages nor what a variable names.
    child = subprocess.run([sys.executable, "-I", "-S", "-c", program], capture_output=True, text=True)
    assert child.returncode == 0, child.stderr


def test_unit_and_page_tests_load_no_engine():
    """Every test process would load it; such tests go to `tests/engines`."""

    def skipped_without(tree: ast.Module) -> set[str]:
        """The modules that `pytest.importorskip` names."""
        calls = (node for node in ast.walk(tree) if isinstance(node, ast.Call))
        return {call.args[0].value for call in calls if ast.unparse(call.func) == "pytest.importorskip"}

    heavy = {"torch", "transformers", "lmdeploy", "gguf"}
    loading = {name for name in ENGINE_PROCESSES if packages(at_import(source(name))) & heavy}
    loaded = {}
    for path in (*ROOT.glob("tests/unit/**/*.py"), *ROOT.glob("tests/pages/**/*.py")):
        tree = ast.parse(path.read_text("utf-8"))
        everywhere = imports(tree) | skipped_without(tree)
        loaded[path.name] = packages(everywhere) & heavy | at_import(tree) & loading
    assert not {name: modules for name, modules in loaded.items() if modules}


def test_sizes_stay_readable():
    lengths = {path: len(path.read_text("utf-8").splitlines()) for path in PATHS}
    assert not {path: n for path, n in lengths.items() if n > (150 if path.parent.name == "pages" else 520)}


def test_ui_folders_import_one_way():
    def layer_of(module: str) -> int | None:
        parts = module.split(".")
        if module.startswith("core.ui.") and len(parts) > 2:
            return next((number for number, names in enumerate(UI_LAYERS) if parts[2] in names), None)
        return None

    wrong = []
    for module in MODULES:
        own = layer_of(module)
        for other in imports_of(module):
            theirs = layer_of(other)
            if own is None or theirs is None or other.split(".")[2] == module.split(".")[2]:
                continue
            if theirs >= own:
                wrong.append(f"{module} imports {other}")
    assert not wrong


def test_folders_stay_small():
    modules: dict[Path, int] = {}
    for path in PATHS:
        if path.name != "__init__.py":
            modules[path.parent] = modules.get(path.parent, 0) + 1
    assert not {folder: n for folder, n in modules.items() if n > MOST_MODULES}


def test_the_test_files_that_begin_first_exist():
    """A renamed one would silently lose its place in the order."""
    text = (ROOT / "tests" / "conftest.py").read_text("utf-8")
    names = re.findall(r'"(test_\w+)"', text)
    assert len(names) > 20
    assert set(names) <= {path.stem for path in ROOT.glob("tests/**/test_*.py")}
