"""What pages need is imported in the background, in a process of its own here."""

import subprocess
import sys

from core.settings import PROJECT_ROOT

PROGRAM = """
import sys
from core.ui.shared import shell
assert "core.ui.memory.measured" not in sys.modules
thread = shell.preload()
assert {"numpy", "pandas"} <= set(sys.modules)  # before any thread could see them half imported
assert shell.preload() is thread
thread.join()
wanted = {"plotly.graph_objects", "core.ui.benchmark.form", "core.ui.memory.measured"}
missing = wanted - set(sys.modules)
print(sorted(missing), "torch" in sys.modules)
"""


def test_libraries_and_pages_are_imported_once_and_no_engine_library():
    found = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=PROJECT_ROOT, capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() == "[] False"
    assert "not preloaded" not in found.stderr
