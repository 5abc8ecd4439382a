"""Find out why an engine ended, from its log and its exit code.

Each text in the table of causes is a message of torch 2.12, transformers 5.23, LMDeploy 0.18, uvicorn or the
kernel, and stands in a table of tests. More specific reasons come before those that often follow from them.
Works on text alone.
"""

import re
import signal
from collections.abc import Sequence
from dataclasses import dataclass

from core.engines.supervisor import lines_of
from core.errors import (
    EngineBusy,
    EngineCrashed,
    EngineError,
    EngineLoadFailed,
    EngineNotInstalled,
    EngineOutOfMemory,
    EngineTimeout,
    WrongBackend,
)
from core.i18n import N_, Message

PORT_TAKEN = "port-taken"
CUDA_ERROR = "cuda-error"


@dataclass(frozen=True, slots=True)
class Cause:
    """One recognised reason; `message` and `hint` may use the pattern's named groups."""

    pattern: str
    error: type[EngineError]
    code: str
    message: Message
    hint: Message


_MEMORY_HINT = N_(
    "Stop another engine, choose a smaller model, or lower cache_max_entry_count, session_len, or "
    "max_batch_size."
)
_DRIVER_HINT = N_(
    "Install the NVIDIA driver, use a transformers lane on the CPU, or use an endpoint on another machine. "
    "Start containers with GPU access (docker run --gpus all)."
)
_FILES_HINT = N_(
    "Check the model's path in lanes.toml. To prepare the demo weights, run `lmdyno models demo`. "
    "Repeat downloads that were interrupted."
)
_PACKAGE_MISSING = N_("The engine's Python environment lacks the package {package}.")

FALLBACK = Cause(
    r"Fallback to pytorch engine because (?P<why>.+)",
    WrongBackend,
    "wrong-backend",
    N_("LMDeploy would run this model on its PyTorch engine: {why}"),
    N_('Choose a model that TurboMind supports, or set the lane\'s engine to "pytorch".'),
)

CAUSES: tuple[Cause, ...] = (
    Cause(
        r"address already in use",
        EngineLoadFailed,
        PORT_TAKEN,
        N_("Another program took the engine's port while it was loading."),
        N_("Start the engine again. It chooses another port."),
    ),
    Cause(
        r"No enough gpu memory for (?P<what>kv cache|runtime|state cache)",
        EngineOutOfMemory,
        "kv-cache-too-small",
        N_("Not enough GPU memory is left for the engine's {what}."),
        N_("Free GPU memory, raise cache_max_entry_count, or lower session_len and max_batch_size."),
    ),
    Cause(
        r"(?i)CUDA out of memory|CUDA error: out of memory|cudaErrorMemoryAllocation"
        r"|\[TM\]\[(?:FATAL|ERROR)\].*out of memory",
        EngineOutOfMemory,
        "gpu-out-of-memory",
        N_("The GPU ran out of memory."),
        _MEMORY_HINT,
    ),
    Cause(
        r"DefaultCPUAllocator: (?:can't allocate|not enough) memory|^MemoryError\b|std::bad_alloc"
        r"|Cannot allocate memory",
        EngineOutOfMemory,
        "host-out-of-memory",
        N_("The machine ran out of memory."),
        N_("Close other programs, stop another engine, or choose a smaller model or dtype."),
    ),
    Cause(
        r"NVIDIA driver on your system is too old \(found version (?P<version>\d+)\)",
        EngineLoadFailed,
        "driver-too-old",
        N_("The NVIDIA driver is too old for the installed torch (it reports CUDA {version})."),
        N_(
            "Update the driver, or give the engine its own Python environment (python = … in lanes.toml) "
            "with "
            "a torch built for the driver's CUDA version."
        ),
    ),
    Cause(
        r"CUDA driver version is insufficient for CUDA runtime version",
        EngineLoadFailed,
        "driver-too-old",
        N_("The NVIDIA driver is too old for the engine's CUDA libraries."),
        N_(
            "Update the driver, or give the engine its own Python environment (python = … in lanes.toml) "
            "with "
            "packages built for the driver's CUDA version."
        ),
    ),
    Cause(
        r"Found no NVIDIA driver|No CUDA GPUs are available|no CUDA-capable device is detected"
        r"|libcuda\.so\.1: cannot open shared object file|Torch not compiled with CUDA enabled",
        EngineLoadFailed,
        "no-nvidia-driver",
        N_("No usable NVIDIA GPU or driver was found."),
        _DRIVER_HINT,
    ),
    Cause(
        r"no kernel image is available for execution on the device",
        EngineLoadFailed,
        "gpu-architecture",
        N_("The engine's packages contain no code for this GPU's architecture."),
        N_(
            "LMDeploy's wheels support compute capability 7.0, 7.5, 8.0, 8.6, 8.9, 9.0, 10.0, and 12.0. Use "
            "another engine or a build for this GPU."
        ),
    ),
    Cause(
        r"CUDA (?:runtime |driver )?error:\s*(?P<what>[^\n.]{3,120})"
        r"|cudaError(?P<what2>IllegalAddress|MisalignedAddress|LaunchFailure|Assert)\b",
        EngineCrashed,
        CUDA_ERROR,
        N_("The engine failed with a CUDA error: {what}"),
        N_(
            "Restart the engine. If the error comes again, use another dtype or KV-cache precision "
            "(quant_policy), or another engine."
        ),
    ),
    Cause(
        r"chat_template is not set|does not have a chat template"
        r"|(?:jinja2\.exceptions\.)?TemplateError: ",
        EngineError,
        "chat-template",
        N_("The model's chat template is missing or can't render this conversation."),
        N_("Remove the system prompt, or use a model with a chat template that supports it."),
    ),
    Cause(
        r"Unsupported group_size=(?P<size>\d+)",
        EngineLoadFailed,
        "group-size",
        N_("The checkpoint is quantised in groups of {size}. TurboMind supports groups of 128."),
        N_("Quantise again with `--w-group-size 128`, or use an engine that supports this checkpoint."),
    ),
    Cause(
        r"model type `(?P<what>[^`]+)` but Transformers does not recognize this architecture"
        r"|module transformers has no attribute (?P<what2>\w+)"
        r"|Can not found rewrite for architectures: \[?'?(?P<what3>\w+)"
        r"|Unrecognized model in (?P<what4>\S+)\. |unsupported vl model with config (?P<what5>\w+)",
        EngineLoadFailed,
        "unsupported-architecture",
        N_("The engine doesn't support this model's architecture ({what})."),
        N_(
            "Use another engine or a newer version. A model that comes with its own code needs "
            "trust_remote_code = true."
        ),
    ),
    Cause(
        r"KeyError: '(?P<what>(?:model\.)?(?:vision_tower|multi_modal_projector)\.[^']+)'",
        EngineLoadFailed,
        "vision-weight-names",
        N_("LMDeploy doesn't know the names of the checkpoint's vision weights ({what})."),
        N_(
            "It reads LLaVA with the weight names of the published checkpoints "
            "(vision_tower.vision_model.…), "
            "not with those that transformers 5 writes. Use the published files, or the transformers engine."
        ),
    ),
    Cause(
        r"has no attribute 'language_config'",
        EngineLoadFailed,
        "vision-text-config",
        N_("The checkpoint's config.json doesn't name its language model."),
        N_(
            "Add the language model's class to text_config, for example "
            '"architectures": ["LlamaForCausalLM"].'
        ),
    ),
    Cause(
        r"NotImplementedError: <(?P<what>\w+_vision\w*)> is not implemented",
        EngineLoadFailed,
        "vision-tower",
        N_("LMDeploy's LLaVA doesn't support this vision tower ({what})."),
        N_('It supports only CLIP towers. Set the lane\'s engine to "transformers".'),
    ),
    Cause(
        r"requires you to execute the configuration file|contains custom code which must be executed",
        EngineLoadFailed,
        "remote-code",
        N_("The model comes with its own program code."),
        N_("Set trust_remote_code = true for the lane only if you trust the model's source."),
    ),
    Cause(
        r"couldn't connect to '?https?://\S+ to load the files|LocalEntryNotFoundError|OfflineModeIsEnabled"
        r"|outgoing traffic has been disabled|Cannot find the requested files in the local cache"
        r"|cannot find the requested files in the disk cache",
        EngineLoadFailed,
        "hub-offline",
        N_("The model isn't on this machine, and the model hub can't be reached."),
        N_(
            "Connect to the network and unset HF_HUB_OFFLINE, or download the model elsewhere and use its "
            "folder."
        ),
    ),
    Cause(
        r"Repo id must be in the form|is not a valid model identifier",
        EngineLoadFailed,
        "model-not-here",
        N_("There is no model at the lane's path."),
        _FILES_HINT,
    ),
    Cause(
        r"no file named \S+|does not appear to have a file named \S+|Can't load the configuration of"
        r"|Unrecognized processing class in|Couldn't instantiate the backend tokenizer"
        r"|Can't load tokenizer for|SafetensorError|is not a valid JSON file"
        r"|No such file or directory: '\S*(?:config\.json|\.safetensors)",
        EngineLoadFailed,
        "model-incomplete",
        N_("The model's folder is incomplete or damaged."),
        _FILES_HINT,
    ),
    Cause(
        r"Missing dependencies for serving",
        EngineNotInstalled,
        "engine-not-installed",
        N_("The packages for `transformers serve` are missing."),
        N_('Install them in the engine\'s environment: pip install "transformers[serving]".'),
    ),
    Cause(
        r"(?:ModuleNotFoundError: |\()?No module named '(?P<package>[\w]+)",
        EngineNotInstalled,
        "engine-not-installed",
        _PACKAGE_MISSING,
        N_("Install it. For LMDyno's own environment: `pip install -r requirements.txt`."),
    ),
    Cause(
        r"(?:ImportError: .*|Using .*|Loading .*|\w+ )requires[^\n]*?"
        r"\b(?P<package>Torchvision|PIL|gptqmodel|autoawq|accelerate|gguf|bitsandbytes)\b",
        EngineNotInstalled,
        "engine-not-installed",
        _PACKAGE_MISSING,
        N_("Install it with pip, or use a checkpoint that doesn't need it."),
    ),
    Cause(
        r"cannot import name '(?P<what>\w+)' from 'transformers|LMDeploy requires transformers(?P<what2>\S+)"
        r"|transformers\S* is required for a normal functioning|The size of tensor a \(\d+\) must match",
        EngineNotInstalled,
        "wrong-transformers",
        N_("The installed transformers version doesn't work with this engine."),
        N_(
            "Install the versions that requirements.txt pins, or give the engine its own Python environment "
            "(python = … in lanes.toml)."
        ),
    ),
    Cause(
        r"libcudart\.so\S*: cannot open|libcublas\S*: cannot open|libnccl\S*: cannot open",
        EngineNotInstalled,
        "cuda-libraries",
        N_("CUDA libraries that the engine needs are missing."),
        N_("Reinstall LMDeploy with its dependencies: `pip install --force-reinstall lmdeploy`."),
    ),
    Cause(
        r"unrecognized arguments: (?P<what>.+)|No such option '?(?P<what2>--[\w-]+)"
        r"|error: argument (?P<what3>.+)|Invalid value for '(?P<what4>[^']+)'",
        EngineLoadFailed,
        "bad-flag",
        N_("The engine doesn't accept an option: {what}"),
        N_(
            "The engine's version differs from the one that LMDyno expects. Install what requirements.txt "
            "pins."
        ),
    ),
)

_RUNTIME_CODES: dict[str, type[EngineError]] = {
    "engine-start-timeout": EngineTimeout,
    "engine-load-failed": EngineLoadFailed,
    "engine-killed": EngineCrashed,
    "engine-died": EngineCrashed,
    "engine-not-running": EngineError,
    "engine-stopping": EngineBusy,
    "node-silent": EngineCrashed,
    "cluster-lost": EngineCrashed,
    "cluster-process-died": EngineCrashed,
    "cluster-process-hangs": EngineTimeout,
    "gpu-full": EngineOutOfMemory,
    "no-gpu": EngineLoadFailed,
}
ERROR_OF_CODE: dict[str, type[EngineError]] = {
    **{
        kind.default_code: kind
        for kind in (
            EngineNotInstalled,
            EngineLoadFailed,
            EngineOutOfMemory,
            EngineBusy,
            EngineTimeout,
            EngineCrashed,
            WrongBackend,
        )
    },
    **{cause.code: cause.error for cause in (FALLBACK, *CAUSES)},
    **_RUNTIME_CODES,
}
"""Which class an error had whose code was kept in a record."""


def recognise(log: str) -> EngineError | None:
    """The failure that a log shows; None for a log without any text of the table."""
    return wrong_backend(log) or _first_cause(log)


def _first_cause(log: str) -> EngineError | None:
    for cause in CAUSES:
        if found := re.search(cause.pattern, log, re.MULTILINE):
            return _error(cause, found)
    return None


def _error(cause: Cause, match: re.Match[str]) -> EngineError:
    # A group's name may stand only once in a pattern, so what, what2 and so on mean the same.
    words = {name.rstrip("2345"): text for name, text in match.groupdict().items() if text}
    return cause.error(cause.message.filled(**{"what": "?", **words}), hint=cause.hint, code=cause.code)


def wrong_backend(log: str) -> EngineError | None:
    """LMDeploy's own word that it runs another engine than it was asked for; it goes on all the same."""
    match = re.search(FALLBACK.pattern, log)
    if match is None:
        return None
    error = _error(FALLBACK, match)
    if reason := _first_cause(match["why"]):
        error.hint = reason.hint
    return error


def unpacked_gguf(log: str) -> bool:
    """Whether transformers turned a GGUF file's blocks into plain weights while loading.

    It does so for most architectures: they then compute, and take memory, like an unquantised checkpoint.
    """
    return "de-quantizing GGUF tensors" in log or "Dequantizing the whole model" in log


def explain_failed_start(log: str, exit_code: int | None) -> EngineError:
    """Return why an engine ended before it was healthy; exit codes are Popen's (negative: a
    signal's number).
    """
    if cause := recognise(log):
        return cause
    if (death := _killed(exit_code)) is not None:
        return death
    return EngineLoadFailed(
        N_(
            "The engine ended before it was ready ({exit}). Its log ends with: {line}",
            exit=_exit_words(exit_code),
            line=line,
        )
        if (line := _last_line(log))
        else N_("The engine ended before it was ready ({exit}).", exit=_exit_words(exit_code)),
        hint=N_("See its log for details."),
    )


def explain_death(log: str, exit_code: int | None) -> EngineError:
    """Return why an engine that was healthy is gone; only what its last lines say counts."""
    recent = "\n".join(lines_of(log)[-40:])
    cause = recognise(recent)
    if cause and (isinstance(cause, EngineOutOfMemory) or cause.code == CUDA_ERROR):
        return cause
    if (death := _killed(exit_code)) is not None:
        return death
    return EngineCrashed(
        N_(
            "The engine crashed ({exit}). Its log ends with: {line}",
            exit=_exit_words(exit_code),
            line=line,
        )
        if (line := _last_line(log))
        else N_("The engine crashed ({exit}).", exit=_exit_words(exit_code)),
        hint=N_("Start it again. See its log for details."),
        code="engine-died",
    )


def _killed(exit_code: int | None) -> EngineError | None:
    if exit_code in (-signal.SIGKILL, 128 + signal.SIGKILL):
        return EngineCrashed(
            N_("The engine was killed (SIGKILL), probably because the system ran out of memory."),
            hint=N_(
                "Check the system's log for the out-of-memory killer. If it ended the engine, choose a "
                "smaller "
                "model or stop another engine. Otherwise, start it again."
            ),
            code="engine-killed",
        )
    return None


def _exit_words(exit_code: int | None) -> Message:
    if exit_code is None:
        return N_("exit code unknown")
    if exit_code < 0:
        return N_("signal {name}", name=signal.Signals(-exit_code).name)
    return N_("exit code {code}", code=exit_code)


def _last_line(log: str) -> str | None:
    lines = telling_lines(log, 1)
    return lines[0] if lines else None


_TELLING = re.compile(
    r"^\w*(?:Error|Exception|Exit)\b|^[\w.]+(?:Error|Exception): |\b(?:ERROR|FATAL|CRITICAL)\b|error:|Error:"
    r"|Fallback to|Aborted|Segmentation fault|Killed|Check failed"
)
_NOISE = re.compile(
    r"^\s+|^Traceback \(most recent|\d+%\|"
    # TurboMind warms up for more tokens than a short session_len holds, says so, and works.
    r"|Warm-up for \d+ tokens failed with status 6"
)


def telling_lines(log: str, count: int = 3) -> Sequence[str]:
    """The last lines that tell why: errors if there are any, else the very last; 300 characters of each."""
    lines = [line for line in lines_of(log) if not _NOISE.search(line)]
    telling = [line for line in lines if _TELLING.search(line)]
    return [line[:300] for line in (telling or lines)[-count:]]
