"""The launch table: how each kind of local engine is started, and what is checked before.

A further kind is a further row. The table knows command lines and environments; it starts nothing. Hugging
Face and LMDeploy serve with their own servers, through scripts of a few lines beside this file, which the
engine's own Python runs. LMDeploy's server and its chat program share the flags of `lmdeploy_flags`.

A check before the start costs a moment, a mistake found while loading a minute. The versions of an engine's
packages are read from its Python environment without importing any of them.
"""

import json
import os
import secrets
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

from core.domain.specs import Dialect, EngineKind, LaneSpec, Weights
from core.engines.placement import LOOPBACK, Need, Place
from core.engines.supervisor import log_path
from core.errors import EngineLoadFailed, EngineNotInstalled, InputError
from core.i18n import N_, Message
from core.memory.model_sizes import lane_weight_bytes
from core.models.checkpoint import checkpoint_folder, lmdeploy_support, read_weights
from core.models.internlm2 import is_internlm2
from core.models.model_config import ModelConfig, read_config
from core.models.vision import not_served, vision_of
from core.models.weight_files import AWQ, Quantization, turbomind_refusal

_SCRIPTS = Path(__file__).parent
_GIB = 2**30
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


@dataclass(frozen=True, slots=True)
class Command:
    """A command line with its environment, and what a client must know to use the server."""

    argv: tuple[str, ...]
    environment: Mapping[str, str]
    """Added to the environment of LMDyno itself."""
    served_model: str
    api_key: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchRow:
    """One kind of local engine."""

    packages: tuple[str, ...]
    """The distributions that must be installed; their versions name what answered."""
    dialect: Dialect
    command: Callable[[LaneSpec, Place, int], Command]
    """The command for a lane at a place, listening on a port."""
    needs_gpu: bool
    overhead_bytes: int
    """GPU memory besides weights and KV cache: CUDA context, kernels, activations, workspaces."""
    label: str = ""
    """Said after the first package's version, such as LMDeploy's backend."""
    health_path: str = "/health"
    warms_up: bool = False
    """Answers one short request before it counts as healthy."""


def python_of(lane: LaneSpec) -> str:
    """The interpreter that runs the lane's engine: its own, or the one that runs LMDyno."""
    own = lane.settings.python
    return str(Path(own).expanduser()) if own else sys.executable


def model_path(lane: LaneSpec) -> str:
    """The model's folder, file or hub id in the form that the lane loads."""
    assert lane.model is not None
    path = lane.model.path(lane.weights)
    assert path is not None
    return str(Path(path).expanduser()) if is_local_path(path) else path


def is_local_path(path: str) -> bool:
    """Whether a checkpoint is named by its place on this machine and not by its hub id."""
    return path.startswith(("/", "~", ".")) or Path(path).exists()


def _transformers(lane: LaneSpec, place: Place, port: int, key: str) -> Command:
    settings = lane.settings
    model = model_path(lane)
    if lane.weights is Weights.GGUF:
        file = Path(model)
        model = f"{file.parent}:{file.name}"
    argv = [
        *(python_of(lane), str(_SCRIPTS / "serve_transformers.py"), model),
        *("--host", place.host, "--port", str(port)),
        *("--device", place.torch_device),
        *("--dtype", settings.dtype),
    ]
    if settings.continuous_batching:
        argv.append("--continuous-batching")
    if settings.trust_remote_code:
        argv.append("--trust-remote-code")
    environment = _environment(lane, place)
    if place.host == LOOPBACK:
        return Command(tuple(argv), environment, served_model=model)
    environment["LMDYNO_ENGINE_KEY"] = key
    return Command(tuple(argv), environment, served_model=model, api_key=key)


def new_key() -> str:
    """A key for one engine."""
    # Hexadecimal: LMDeploy takes a key that begins with a dash for an option.
    return secrets.token_hex(24)


def _lmdeploy(lane: LaneSpec, place: Place, port: int, key: str) -> Command:
    server = [
        model_path(lane),
        *("--model-name", lane.name),
        *lmdeploy_flags(lane),
        *("--max-batch-size", str(lane.settings.max_batch_size)),
        # Without it the model's own sampling defaults would be mixed into every request.
        *("--generation-config", "lmdeploy"),
    ]
    replicas = lane.settings.replicas
    if replicas == 1:
        argv = [str(_SCRIPTS / "serve_lmdeploy.py"), *server]
        argv += ["--server-name", place.host, "--server-port", str(port)]
    else:
        # Each replica takes a port of its own; this one is the proxy's.
        argv = [str(_SCRIPTS / "serve_replicas.py"), "--host", place.host, "--port", str(port)]
        argv += ["--model", lane.name]
        argv += ["--name", log_path(Path(), lane.name).stem]
        argv += [f"--devices={share.visible_devices}" for share in place.shares(replicas)]
        argv += ["--", *server, "--server-name", LOOPBACK]
    environment = {
        **_environment(lane, place),
        # LMDeploy's own level stays at WARNING, since at INFO it logs prompts. TurboMind's INFO tells the KV
        # cache's size.
        "TM_LOG_LEVEL": "INFO",
        "TM_LOG_COLOR": "0",
        "LMDYNO_ENGINE_KEY": key,
    }
    return Command((python_of(lane), *argv), environment, served_model=lane.name, api_key=key)


_SPIN_COUNT = "10000"
"""How long torch's idle threads on a CPU spin before they sleep. OpenMP's own 300,000 suits a program with
the cores to itself: on two cores two engines that answered together ran at a fifth of their own speed."""


def _environment(lane: LaneSpec, place: Place) -> dict[str, str]:
    environment = {
        "PYTHONUNBUFFERED": "1",
        # `transformers serve` would ask the package index for a newer version of itself.
        "HF_HUB_DISABLE_UPDATE_CHECK": "1",
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
        "CUDA_VISIBLE_DEVICES": place.visible_devices,
    }
    if is_local_path(model_path(lane)):
        environment["HF_HUB_OFFLINE"] = "1"
    if not place.gpus:
        environment["GOMP_SPINCOUNT"] = _SPIN_COUNT
    return environment


def _lmdeploy_row(backend: str, make_key: Callable[[], str]) -> LaunchRow:
    def command(lane: LaneSpec, place: Place, port: int) -> Command:
        return _lmdeploy(lane, place, port, make_key())

    return LaunchRow(
        packages=("lmdeploy", "torch"),
        dialect=Dialect.LMDEPLOY,
        command=command,
        needs_gpu=True,
        # Seen on an H100 over weights and KV cache of a 3.5 GiB model: 1.1 to 1.9 GiB; transformers 0.8.
        overhead_bytes=2 * _GIB,
        label=backend,
        warms_up=True,
    )


def launch_table(make_key: Callable[[], str] = new_key) -> Mapping[EngineKind, LaunchRow]:
    """The rows of all kinds; `make_key` gives the API key of each engine that takes one."""

    def transformers(lane: LaneSpec, place: Place, port: int) -> Command:
        return _transformers(lane, place, port, make_key())

    return {
        EngineKind.TRANSFORMERS: LaunchRow(
            packages=("transformers", "torch"),
            dialect=Dialect.TRANSFORMERS,
            command=transformers,
            needs_gpu=False,
            overhead_bytes=1 * _GIB,
            warms_up=True,
        ),
        EngineKind.TURBOMIND: _lmdeploy_row("turbomind", make_key),
        EngineKind.AWQ: _lmdeploy_row("turbomind", make_key),
        EngineKind.PYTORCH: _lmdeploy_row("pytorch", make_key),
    }


LAUNCH_TABLE = launch_table()


def lmdeploy_flags(lane: LaneSpec) -> tuple[str, ...]:
    """Engine flags that `lmdeploy serve api_server` and `lmdeploy chat` share."""
    settings = lane.settings
    flags = [
        *("--backend", "pytorch" if lane.kind is EngineKind.PYTORCH else "turbomind"),
        *("--dtype", settings.dtype),
        *("--session-len", str(settings.session_len)),
        *("--cache-max-entry-count", f"{settings.cache_max_entry_count:g}"),
        *("--quant-policy", str(settings.quant_policy)),
        *("--tp", str(settings.tp)),
    ]
    if lane.kind is EngineKind.AWQ:
        flags += ["--model-format", "awq"]
    if settings.enable_prefix_caching:
        flags.append("--enable-prefix-caching")
    if settings.trust_remote_code:
        flags.append("--trust-remote-code")
    if template := chat_template(lane):
        flags += ["--chat-template", template]
    return tuple(flags)


def chat_template(lane: LaneSpec) -> str | None:
    """A template's name or file, where LMDeploy would not find the right one by itself."""
    path = lane.model.path(lane.weights) if lane.model else None
    vision = vision_of(path) if path else None
    return vision.lmdeploy_chat_template if vision else None


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
