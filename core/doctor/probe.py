"""Probe an engine's Python environment: what it can do is found out in that environment.

Each question is a small program for a child process of the engine's interpreter: importing torch takes
seconds, and a stack that doesn't fit together may abort or hang instead of raising. The last line of its
standard error is then the reason. Nothing here imports an engine library.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from core.i18n import N_, Text

PACKAGES = ("lmdeploy", "transformers", "torch", "torchvision", "triton", "gguf", "datasets")
"""Distributions whose versions decide what an engine can do."""

_TIMEOUT_S = 120.0

_VERSIONS = f"""
import importlib.metadata as metadata, json, platform
versions = {{}}
for name in {PACKAGES!r}:
    try:
        versions[name] = metadata.version(name)
    except metadata.PackageNotFoundError:
        pass
needs = (metadata.requires("lmdeploy") or []) if "lmdeploy" in versions else []
print(json.dumps({{"python": platform.python_version(), "versions": versions, "needs": needs}}))
"""
_TORCH = """
import json, torch
sees_gpu = torch.cuda.is_available()
print(json.dumps({
    "cuda": torch.version.cuda,
    "sees_gpu": sees_gpu,
    "architectures": torch.cuda.get_arch_list() if sees_gpu else [],
}))
"""
_TURBOMIND = """
import json, lmdeploy.turbomind as turbomind
if not turbomind.is_available():
    from lmdeploy.turbomind import _turbomind
print(json.dumps({}))
"""


@dataclass(frozen=True, slots=True)
class TorchFacts:
    """The build of PyTorch, and whether it reaches a GPU."""

    cuda: str | None
    """CUDA version it was built for, such as "13.0"; None for a CPU-only build."""
    sees_gpu: bool
    architectures: tuple[str, ...]
    """GPU architectures with compiled kernels, such as `sm_90`; empty where it sees no GPU."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineStack:
    """One Python environment that engines run in. A `…_problem` is why a question has no answer."""

    python: str
    python_version: str | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
    lmdeploy_needs: tuple[str, ...] = ()
    """LMDeploy's requirements on other packages, in the notation of its metadata."""
    torch: TorchFacts | None = None
    turbomind_loads: bool = False
    problem: Text | None = None
    """Why the interpreter itself could not be asked."""
    torch_problem: Text | None = None
    turbomind_problem: Text | None = None


class ProbeFailed(Exception):
    """A child process that gave no answer, and why."""

    def __init__(self, reason: Text) -> None:
        super().__init__(reason)
        self.reason = reason


def probe_stack(python: str, *, timeout_s: float = _TIMEOUT_S) -> EngineStack:
    """Examine the environment of an interpreter; takes some 10 s where torch is installed. Never raises."""
    try:
        answer = ask(python, _VERSIONS, timeout_s=timeout_s)
    except ProbeFailed as failure:
        return EngineStack(python=python, problem=failure.reason)
    versions: dict[str, str] = answer["versions"]
    with ThreadPoolExecutor(max_workers=2) as pool:
        torch_answer = pool.submit(_ask_if, "torch" in versions, python, _TORCH, timeout_s)
        turbomind_answer = pool.submit(_ask_if, "lmdeploy" in versions, python, _TURBOMIND, timeout_s)
    torch, torch_problem = torch_answer.result()
    turbomind, turbomind_problem = turbomind_answer.result()
    return EngineStack(
        python=python,
        python_version=answer["python"],
        versions=versions,
        lmdeploy_needs=tuple(answer["needs"]),
        torch=None
        if torch is None
        else TorchFacts(torch["cuda"], torch["sees_gpu"], tuple(torch["architectures"])),
        torch_problem=torch_problem,
        turbomind_loads=turbomind is not None,
        turbomind_problem=turbomind_problem,
    )


def _ask_if(
    installed: bool, python: str, program: str, timeout_s: float
) -> tuple[dict[str, Any] | None, Text | None]:
    """(answer, None) or (None, why there is none)."""
    if not installed:
        return None, N_("It isn't installed.")
    try:
        return ask(python, program, timeout_s=timeout_s), None
    except ProbeFailed as failure:
        return None, failure.reason


def ask(python: str, program: str, *, timeout_s: float) -> dict[str, Any]:
    """The JSON object that a program prints last; raises ProbeFailed with the reason if it prints none."""
    try:
        run = subprocess.run(
            [python, "-c", program],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            env=_environment(python),
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise ProbeFailed(N_("No answer within {time}.", time=f"{timeout_s:g} s")) from None
    except OSError as error:
        raise ProbeFailed(N_("Can't run {path}: {reason}", path=python, reason=error.strerror)) from error
    if run.returncode < 0:
        raise ProbeFailed(
            N_(
                "Ended by {signal}: {line}",
                signal=signal.Signals(-run.returncode).name,
                line=_shortened(_last_line(run.stderr)),
            )
        )
    if run.returncode > 0:
        raise ProbeFailed(_shortened(_last_line(run.stderr)))
    try:
        answer = json.loads(_last_line(run.stdout))
    except json.JSONDecodeError:
        answer = None
    if not isinstance(answer, dict):
        raise ProbeFailed(N_("Unexpected output: {line}", line=_shortened(_last_line(run.stdout))))
    return answer


def _environment(python: str) -> dict[str, str] | None:
    """Another interpreter must not see this one's packages, as PYTHONPATH would make it."""
    if python == sys.executable:
        return None
    return {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1].strip() if lines else ""


def _shortened(line: str) -> Text:
    return line[:300] or N_("no output")
