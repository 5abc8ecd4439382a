"""The launch table: how each kind of local engine is started. A further kind is a further row.

It knows command lines and environments; it starts nothing. Hugging Face and LMDeploy serve with their own
servers, through scripts of a few lines beside this file, which the engine's own Python runs. LMDeploy's
server and its chat program share the flags of `lmdeploy_flags`.
"""

import secrets
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from core.domain.specs import Dialect, EngineKind, LaneSpec, Weights
from core.engines.placement import LOOPBACK, Place
from core.engines.supervisor import log_path
from core.models.vision import vision_of

_SCRIPTS = Path(__file__).parent
_GIB = 2**30


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
