"""Which versions of an engine's packages its Python environment has, without importing any of them."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib import metadata

from core.errors import EngineNotInstalled
from core.i18n import N_

_TIMEOUT_S = 30
_PROGRAM = """
import json, sys
from importlib import metadata
found = {}
for name in sys.argv[1:]:
    try:
        found[name] = metadata.version(name)
    except metadata.PackageNotFoundError:
        found[name] = None
print(json.dumps(found))
"""


def installed_versions(python: str, packages: Sequence[str]) -> Mapping[str, str | None]:
    """Version of each distribution in that interpreter's environment; None for one that is missing.

    Raises EngineNotInstalled if the interpreter can't be run. Other interpreters than LMDyno's own are asked
    in a child process.
    """
    if os.path.abspath(python) == os.path.abspath(sys.executable):  # noqa: PTH100 - links tell environments apart
        return {name: _version(name) for name in packages}
    try:
        answer = subprocess.run(
            [python, "-c", _PROGRAM, *packages],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_TIMEOUT_S,
            check=True,
            env={key: value for key, value in os.environ.items() if not key.startswith("PYTHON")},
        )
        return dict(json.loads(answer.stdout))
    except (OSError, subprocess.SubprocessError, ValueError) as exc:
        raise EngineNotInstalled(
            N_("Can't run the engine's Python: {path}", path=python),
            hint=N_("Correct python = … in lanes.toml. The system reports: {reason}", reason=exc),
            code="engine-python",
        ) from exc


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
