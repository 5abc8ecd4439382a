"""Imports run one way, each foreign library has one room, and the dashboard imports no torch."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

FLOORS = [
    {"core.po"},
    {"core.i18n"},
    {"core.errors", "core.files", "core.units", "core.logs", "core.settings"},
    {"core.domain"},
    {"core.codec", "core.config"},
    {"core.store", "core.telemetry", "core.pictures"},
    {"core.jobs"},
    {"core.models"},
    {"core.engines"},
    {"core.meter"},
    {"core.bench", "core.charts", "core.charts_live", "core.charts_memory", "core.doctor", "core.sweep"},
    {"core.charts_bench", "core.charts_vision", "core.picture_quiz"},
    {"core.charts_bench_bars", "core.charts_bench_requests", "core.charts_comparison"},
    {"core.bench_html"},
    {"core.comparison_html"},
    {"core.ui", "core.cli"},
    {"pages", "core.__main__"},
    {"streamlit_app"},
]
"""Lower floors first: a module imports only its own room and rooms below. Rooms of one floor keep apart,
apart from those listed in NEIGHBOURS."""

NEIGHBOURS = {
    "core.settings": {"core.errors"},
    "core.config": {"core.codec"},
}

FOREIGN_ROOMS = {
    "streamlit": ("core.ui", "pages", "streamlit_app"),
    "plotly": (
        "core.charts",
        "core.charts_live",
        "core.charts_memory",
        "core.charts_bench",
        "core.charts_bench_bars",
        "core.charts_bench_requests",
        "core.charts_comparison",
        "core.charts_vision",
        "core.bench_html",
    ),
    "aiohttp": ("core.meter",),
    "pynvml": ("core.telemetry.nvml",),
    "psutil": ("core.telemetry",),
    "sqlalchemy": ("core.store",),
    "alembic": ("core.store",),
    "typer": ("core.cli", "core.__main__"),
    "rich": ("core.cli", "core.__main__"),
    "pydantic": ("core.codec", "core.config"),
    "PIL": ("core.pictures",),
    "prometheus_client": ("core.engines.prometheus",),
}

ENGINE_LIBRARIES = {"torch", "transformers", "lmdeploy", "gguf", "safetensors", "sentencepiece", "tokenizers"}
ENGINE_PROCESSES = {
    "core.engines.serve_transformers",
    "core.engines.serve_lmdeploy",
    "core.models.gguf_to_hf",
    "core.models.demo_vision_assemble",
    "core.models.internlm2_to_llama",
    "core.models.internlm2_tokenizer",
    "core.models.awq_probe",
    "core.models.awq_worker",
    "core.bench.tokens",
    "core.bench.bandwidth_worker",
}
"""Modules that run only as a child process of their own."""


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


def room(module: str) -> str:
    return "pages" if module.startswith("pages") else ".".join(module.split(".")[:2])


def floor(module: str) -> int:
    for number, rooms in enumerate(FLOORS):
        if room(module) in rooms:
            return number
    raise AssertionError(f"{module} is in no room of the picture: give it a floor")


SOURCES = {module_name(path): ast.parse(path.read_text("utf-8")) for path in PATHS}


def test_imports_run_one_way():
    wrong = []
    for module, tree in SOURCES.items():
        if module == "core":
            continue
        for other in imports(tree):
            if other not in SOURCES or room(other) == room(module) or other == "core":
                continue
            below = floor(other) < floor(module)
            if not below and room(other) not in NEIGHBOURS.get(room(module), set()):
                wrong.append(f"{module} imports {other}")
    assert not wrong


def test_pages_never_import_pages():
    assert not [m for m, tree in SOURCES.items() if any(name.startswith("pages") for name in imports(tree))]


@pytest.mark.parametrize(("library", "rooms"), FOREIGN_ROOMS.items())
def test_a_foreign_library_has_one_room(library, rooms):
    outside = [
        module
        for module, tree in SOURCES.items()
        if any(name.split(".")[0] == library for name in imports(tree))
        and not any(module == home or module.startswith(home + ".") for home in rooms)
    ]
    assert not outside


def test_engine_libraries_stay_in_engine_processes():
    users = {
        module
        for module, tree in SOURCES.items()
        if {name.split(".")[0] for name in imports(tree)} & ENGINE_LIBRARIES
    }
    assert users <= ENGINE_PROCESSES


def test_the_dashboard_imports_no_engine_library():
    program = (
        "import sys, core.ui.resources, core.ui.shell, core.charts\n"
        f"print(sorted({ENGINE_LIBRARIES!r} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == "[]"


def test_sizes_stay_readable():
    lengths = {path: len(path.read_text("utf-8").splitlines()) for path in PATHS}
    assert not {path: n for path, n in lengths.items() if n > (150 if path.parent.name == "pages" else 500)}
