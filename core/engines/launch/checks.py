"""Checks before a start, so that a mistake costs a moment and not a minute of loading.

The versions of an engine's packages are read from its Python environment without importing any of them.
"""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path

from core.domain.specs import EngineKind, LaneSpec, Weights
from core.engines.launch.table import LaunchRow, is_local_path, model_path, python_of
from core.engines.placement import Need
from core.errors import EngineLoadFailed, EngineNotInstalled, InputError
from core.i18n import N_, Message
from core.memory.model_sizes import lane_weight_bytes
from core.models.architectures import lmdeploy_support
from core.models.checkpoint import checkpoint_folder, read_weights
from core.models.internlm2 import is_internlm2
from core.models.model_config import ModelConfig, read_config
from core.models.vision import not_served
from core.models.weight_files import AWQ, Quantization, turbomind_refusal

_NO_4_BIT_HEAD_DIM = 64
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


def version_of(lane: LaneSpec, row: LaunchRow) -> str:
    """Return what will run, such as `lmdeploy 0.18.0 (turbomind), torch 2.12.1`.

    Raises EngineNotInstalled for a Python that can't be run or a package that is missing there.
    """
    python = python_of(lane)
    versions = installed_versions(python, row.packages)
    if missing := [name for name, version in versions.items() if version is None]:
        raise EngineNotInstalled(
            N_(
                "Packages missing from the environment of {python}: {names}.",
                python=python,
                names=", ".join(missing),
            ),
            hint=N_(
                "Install them: `{python} -m pip install -r requirements.txt`. LMDeploy has packages only for "
                "Linux on x86-64.",
                python=python,
            ),
        )
    texts = [f"{name} {version}" for name, version in versions.items()]
    if row.label:
        texts[0] += f" ({row.label})"
    return ", ".join(texts)


def need_of(lane: LaneSpec, row: LaunchRow) -> Need:
    """Return what the lane's model will take; checks on the way that the model is there and fits the engine.

    Raises EngineLoadFailed: form missing, path missing, files incomplete, or a vision model or a quantisation
    that the engine can't load.
    """
    path = _existing_path(lane)
    if problem := not_served(lane):
        raise EngineLoadFailed(problem.message, hint=problem.hint, code=problem.code)
    _require_no_remote_code(lane, path)
    kv_ratio = None if lane.kind is EngineKind.TRANSFORMERS else lane.settings.cache_max_entry_count
    weight_bytes = None
    if is_local_path(path):
        if lane.weights is not Weights.GGUF:
            _require_loadable(lane, path)
        weight_bytes = lane_weight_bytes(lane)
    return Need(
        weight_bytes=None if weight_bytes is None else weight_bytes // lane.settings.tp,
        overhead_bytes=row.overhead_bytes,
        kv_ratio=kv_ratio,
    )


def _existing_path(lane: LaneSpec) -> str:
    assert lane.model is not None
    if lane.model.path(lane.weights) is None:
        raise EngineLoadFailed(
            N_(
                'Lane "{lane}" needs {weights} weights, but model {model} has none.',
                lane=lane.name,
                weights=str(lane.weights),
                model=lane.model.name,
            ),
            hint=N_(
                "Set {weights} = … under [models.{model}] in lanes.toml.",
                weights=str(lane.weights),
                model=lane.model.name,
            ),
            code="model-form-missing",
        )
    path = model_path(lane)
    local = is_local_path(path)
    if local and not Path(path).exists():
        raise EngineLoadFailed(
            N_("There is no model at {path}.", path=path),
            hint=_how_to_get(lane),
            code="model-not-here",
        )
    if lane.kind is EngineKind.TRANSFORMERS and local and ("@" in path or ":" in path):
        raise EngineLoadFailed(
            N_("`transformers serve` can't load a model from a path with @ or : in it: {path}", path=path),
            hint=N_("It reads them as a revision or a GGUF file name. Move or link the folder elsewhere."),
            code="model-path",
        )
    return path


def _require_no_remote_code(lane: LaneSpec, path: str) -> None:
    if not lane.settings.trust_remote_code and Path(path).is_dir() and is_internlm2(Path(path)):
        raise EngineLoadFailed(
            N_("{path} is an InternLM2 checkpoint, which loads only with its own code.", path=path),
            hint=N_(
                "Convert it once with `lmdyno models internlm2 {path}`, and use the result in lanes.toml.",
                path=path,
            ),
            code="needs-conversion",
        )


def _how_to_get(lane: LaneSpec) -> Message:
    assert lane.model is not None
    if lane.weights is Weights.AWQ:
        return N_(
            "Create it on a machine with an NVIDIA GPU: `lmdyno quantize {model}`.", model=lane.model.name
        )
    return N_("Correct the path in lanes.toml. To prepare the demo weights, run `lmdyno models demo`.")


def _require_loadable(lane: LaneSpec, path: str) -> None:
    """Whole files, and a model and a quantisation that the lane's engine supports."""
    try:
        weights = read_weights(path)
        config = read_config(checkpoint_folder(path))
    except InputError as exc:
        raise EngineLoadFailed(exc.message, hint=exc.hint, code=exc.code) from exc
    if lane.kind in (EngineKind.AWQ, EngineKind.TURBOMIND):
        _require_turbomind(lane, config)
        _require_fitting_kv_cache(lane, config)
        _require_fitting_quantisation(lane, weights.quantized)


def _require_turbomind(lane: LaneSpec, config: ModelConfig) -> None:
    """By LMDeploy's own table; with any other model it starts its PyTorch engine instead."""
    support = lmdeploy_support(lane.settings.python)
    if support is None or config.architecture in support.turbomind or config.architecture == "unknown":
        return
    raise EngineLoadFailed(
        N_(
            "TurboMind of LMDeploy {version} doesn't support {architecture}.",
            version=support.version,
            architecture=config.architecture,
        ),
        hint=N_('Set engine = "pytorch" for this lane.')
        if config.architecture in support.pytorch
        else N_('Set engine = "transformers" for this lane.'),
        code="turbomind-unsupported",
    )


def _require_fitting_kv_cache(lane: LaneSpec, config: ModelConfig) -> None:
    """TurboMind 0.18 loads such a model and ends at its first request: "misaligned address"."""
    if lane.settings.quant_policy == 4 and config.head_dim == _NO_4_BIT_HEAD_DIM:
        raise EngineLoadFailed(
            N_(
                "TurboMind can't keep the KV cache of {model} in 4 bits: the model has a head_dim of {size}.",
                model=lane.model.name if lane.model else lane.name,
                size=_NO_4_BIT_HEAD_DIM,
            ),
            hint=N_("Set quant_policy to 8 or 0 for this lane."),
            code="kv-bits-unsupported",
        )


def _require_fitting_quantisation(lane: LaneSpec, quantized: Quantization | None) -> None:
    if lane.kind is EngineKind.AWQ and (quantized is None or quantized.method != AWQ):
        raise EngineLoadFailed(
            N_(
                "The weights of {lane} aren't quantised with AWQ (they are {quantization}).",
                lane=lane.name,
                quantization=quantized.method if quantized else N_("unquantised"),
            ),
            hint=_how_to_get(lane),
            code="not-awq",
        )
    if quantized is not None and (problem := turbomind_refusal(quantized)):
        raise EngineLoadFailed(problem.message, hint=problem.hint, code=problem.code)


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
