"""What the LMDeploy of an engine's Python can quantise and serve, read from its own tables.

Importing lmdeploy takes some ten seconds and loads torch: a child process does it, once for each interpreter.
"""

import subprocess
from dataclasses import dataclass
from functools import lru_cache

from core.codec import decode
from core.errors import EngineError, EngineNotInstalled, InputError
from core.settings import PROJECT_ROOT

_TIMEOUT_S = 300.0
_PROGRAM = "core.models.awq_probe"


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantiserStack:
    """The engine's packages, as far as quantising goes."""

    lmdeploy: str | None
    """Version; None if it is not installed."""
    missing: str | None
    """The package whose absence keeps lmdeploy from loading."""
    quantisable: tuple[str, ...]
    """Architectures in the quantiser's table."""
    calibratable: tuple[str, ...]
    """Those of them that it can calibrate; the others go without data."""
    servable: tuple[str, ...]
    """Architectures in TurboMind's table."""
    turbomind_problem: str | None
    """Why TurboMind can't be loaded here, such as a missing driver; None if it can."""
    has_datasets: bool


@lru_cache(maxsize=8)
def ask_stack(python: str) -> QuantiserStack:
    """The stack behind an interpreter.

    Raises InputError (`no-python`) for a path that is no interpreter, EngineNotInstalled where lmdeploy or a
    package that it needs is missing, EngineError (`lmdeploy-broken`) where it fails to load otherwise.
    """
    try:
        done = subprocess.run(
            [python, "-m", _PROGRAM],
            cwd=PROJECT_ROOT,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_S,
            check=False,
        )
    except OSError as exc:
        raise InputError(
            f"{python} can't be started: {exc.strerror}",
            hint="Name a Python interpreter with lmdeploy.",
            code="no-python",
        ) from exc
    except subprocess.TimeoutExpired as exc:
        raise EngineError(
            f"Importing lmdeploy in {python} took longer than {_TIMEOUT_S:.0f} s",
            hint="The machine is very busy; try again.",
            code="lmdeploy-broken",
        ) from exc
    if done.returncode != 0:
        last_line = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise EngineError(
            f"lmdeploy can't be imported in {python}: {last_line}",
            hint="Run `python -m core doctor`; the installed versions may not fit together.",
            code="lmdeploy-broken",
        )
    stack = decode(QuantiserStack, done.stdout.strip().splitlines()[-1])
    if stack.lmdeploy is None:
        raise EngineNotInstalled(
            f"{python} has no package {stack.missing}",
            hint='Run `pip install "lmdeploy[lite]"` there, or name another interpreter.',
        )
    return stack
