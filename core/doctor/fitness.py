"""What the doctor says: one finding for each thing looked at, and whether a lane can run here.

The latter is decided from files and installed packages alone: cheap enough for every start. Imports no
engine library and starts no process; what only an import can show is left to `examine`.
"""

import os
import platform
import sys
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from importlib.util import find_spec
from pathlib import Path

from core.config import DEMO_NAME, VISION_DEMO_NAME
from core.domain.specs import EngineKind, LaneSpec, ModelSpec, Weights
from core.domain.turns import ErrorInfo, Machine
from core.i18n import N_, Message, Text
from core.models.vision import not_served


class Status(StrEnum):
    """The severity of a finding: only `fail` needs something done before lanes can work as configured."""

    OK = "ok"
    INFO = "info"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at: what it is, how it is, and what to do about it if anything."""

    status: Status
    subject: Text
    detail: Text
    remedy: Text = ""


@dataclass(frozen=True, slots=True)
class LaneFitness:
    """Whether a lane can run on this machine; `reason` is None if it can."""

    name: str
    reason: ErrorInfo | None
    is_local: bool = True
    node: str | None = None
    """The node of the Ray cluster that the lane names; `reason` is then about the node."""

    @property
    def can_run(self) -> bool:
        return self.reason is None


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnosis:
    """Everything that one examination found."""

    findings: tuple[Finding, ...]
    lanes: tuple[LaneFitness, ...]
    machine: Machine

    @property
    def failed(self) -> bool:
        return any(finding.status is Status.FAIL for finding in self.findings)


_PACKAGES = {
    EngineKind.TRANSFORMERS: ("torch", "transformers", "accelerate", "fastapi", "uvicorn"),
    EngineKind.TURBOMIND: ("torch", "lmdeploy"),
    EngineKind.AWQ: ("torch", "lmdeploy"),
    EngineKind.PYTORCH: ("torch", "lmdeploy"),
}
"""What an engine of each kind imports; `transformers serve` needs the last two for its server."""

LMDEPLOY_KINDS = frozenset({EngineKind.TURBOMIND, EngineKind.AWQ, EngineKind.PYTORCH})


def _installed(package: str) -> bool:
    return find_spec(package) is not None


def _here() -> tuple[str, str]:
    return sys.platform, platform.machine()


def can_run(
    lane: LaneSpec,
    *,
    gpu: bool,
    installed: Callable[[str], bool] = _installed,
    here: Callable[[], tuple[str, str]] = _here,
) -> ErrorInfo | None:
    """Return why the lane can't run on this machine and what to do; None if nothing speaks against it.

    Args:
        lane: any lane; an endpoint is always fit, since only a request shows whether somebody answers, and
            so is a lane on a node, whose files are there.
        gpu: an NVIDIA GPU is here.
        installed: whether a package can be imported by this Python.
        here: operating system and processor, as `sys.platform` and `platform.machine` name them.
    """
    if not lane.is_local or lane.node is not None:
        return None
    return (
        _platform_problem(lane, here())
        or _gpu_problem(lane, gpu)
        or _python_problem(lane, installed)
        or _weights_problem(lane)
        or not_served(lane)
    )


def _platform_problem(lane: LaneSpec, here: tuple[str, str]) -> ErrorInfo | None:
    if lane.kind in LMDEPLOY_KINDS and here != ("linux", "x86_64"):
        return ErrorInfo(
            "platform-not-served",
            N_("LMDeploy has no build for {system} on {machine}.", system=here[0], machine=here[1]),
            N_("Use a transformers lane, or an endpoint on a Linux machine with an NVIDIA GPU."),
        )
    return None


def _gpu_problem(lane: LaneSpec, gpu: bool) -> ErrorInfo | None:
    if gpu:
        return None
    if lane.kind in LMDEPLOY_KINDS:
        return ErrorInfo(
            "no-gpu",
            N_("LMDeploy needs an NVIDIA GPU, but this machine has none."),
            N_("Use a transformers lane on the CPU, or an endpoint on a machine with a GPU."),
        )
    if lane.settings.device == "cuda" or lane.settings.devices:
        return ErrorInfo(
            "no-gpu",
            N_("The lane is set to run on a GPU, but this machine has no NVIDIA GPU."),
            N_('Set device = "cpu" for this lane, or remove the setting.'),
        )
    return None


def _python_problem(lane: LaneSpec, installed: Callable[[str], bool]) -> ErrorInfo | None:
    python = lane.settings.python
    if python is not None and python != sys.executable:
        if os.access(python, os.X_OK):
            return None
        return ErrorInfo(
            "engine-python-missing",
            N_("The lane's Python interpreter doesn't exist: {path}", path=python),
            N_("Correct `python` in lanes.toml, or remove it to use LMDyno's environment."),
        )
    packages = _PACKAGES[lane.kind]
    if lane.weights is Weights.GGUF:
        packages += ("gguf",)
    missing = [package for package in packages if not installed(package)]
    if missing:
        return ErrorInfo(
            "engine-not-installed",
            N_("Not installed: {names}.", names=", ".join(missing)),
            N_("Install LMDyno's requirements: `pip install -r requirements.txt`"),
        )
    return None


def _weights_problem(lane: LaneSpec) -> ErrorInfo | None:
    """A hub id can't be checked without the network, so only folders and files are."""
    if lane.model is None:
        return ErrorInfo("no-model", N_("The lane has no model."), N_("Add `model` to it in lanes.toml."))
    path = lane.model.path(lane.weights)
    if path is None:
        return ErrorInfo(
            "no-such-weights",
            N_("Model {model} has no {weights} weights.", model=lane.model.name, weights=str(lane.weights)),
            N_(
                "Set {weights} = … under [models.{model}] in lanes.toml.",
                model=lane.model.name,
                weights=str(lane.weights),
            ),
        )
    if not Path(path).is_absolute() or Path(path).exists():
        return None
    return ErrorInfo(
        "weights-missing",
        N_("There are no weights at {path}.", path=path),
        _weights_hint(lane.model, lane.weights),
    )


def _weights_hint(model: ModelSpec, weights: Weights) -> Message:
    if weights is Weights.AWQ:
        return N_("Quantise the model: `lmdyno quantize {model}`", model=model.name)
    if Path(model.checkpoint).name in (DEMO_NAME, VISION_DEMO_NAME):
        return N_("Prepare the demo weights: `lmdyno models demo`")
    return N_("Correct the path of model {model} in lanes.toml.", model=model.name)
