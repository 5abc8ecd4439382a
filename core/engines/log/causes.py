"""The reasons why engines end, and how their logs name them.

Each text is a message of torch 2.12, transformers 5.23, LMDeploy 0.18, uvicorn or the kernel, and stands in a
table of tests. More specific reasons come before those that often follow from them.
"""

from dataclasses import dataclass

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

PORT_TAKEN = "port-taken"


@dataclass(frozen=True, slots=True)
class Cause:
    """One recognised reason; `message` and `hint` may use the pattern's named groups."""

    pattern: str
    error: type[EngineError]
    code: str
    message: str
    hint: str


_MEMORY_HINT = (
    "Stop another engine, choose a smaller model, or lower cache_max_entry_count, session_len or "
    "max_batch_size."
)
_DRIVER_HINT = (
    "Install NVIDIA's driver, or use lanes for the CPU (engine transformers, device cpu) or an endpoint "
    "elsewhere. In a container, start it with GPU access (docker run --gpus all)."
)
_FILES_HINT = (
    "Check the model's path in lanes.toml; `python -m core models demo` prepares the demo weights. "
    "A download that broke off must be repeated."
)

FALLBACK = Cause(
    r"Fallback to pytorch engine because (?P<why>.+)",
    WrongBackend,
    "wrong-backend",
    "LMDeploy would run this model on its PyTorch engine: {why}",
    'Choose a model that TurboMind takes, or set the lane\'s engine to "pytorch" to name it rightly.',
)

CAUSES: tuple[Cause, ...] = (
    Cause(
        r"address already in use",
        EngineLoadFailed,
        PORT_TAKEN,
        "Another program took the engine's port while it was loading",
        "Start the engine again; it chooses another port.",
    ),
    Cause(
        r"No enough gpu memory for (?P<what>kv cache|runtime|state cache)",
        EngineOutOfMemory,
        "kv-cache-too-small",
        "Too little GPU memory is left for the engine's {what}",
        "Free GPU memory, or raise cache_max_entry_count, or lower session_len and max_batch_size.",
    ),
    Cause(
        r"(?i)CUDA out of memory|CUDA error: out of memory|cudaErrorMemoryAllocation"
        r"|\[TM\]\[(?:FATAL|ERROR)\].*out of memory",
        EngineOutOfMemory,
        "gpu-out-of-memory",
        "The GPU's memory did not suffice",
        _MEMORY_HINT,
    ),
    Cause(
        r"DefaultCPUAllocator: (?:can't allocate|not enough) memory|^MemoryError\b|std::bad_alloc"
        r"|Cannot allocate memory",
        EngineOutOfMemory,
        "host-out-of-memory",
        "The machine's memory did not suffice",
        "Close other programs or stop another engine, or choose a smaller model or dtype.",
    ),
    Cause(
        r"NVIDIA driver on your system is too old \(found version (?P<version>\d+)\)",
        EngineLoadFailed,
        "driver-too-old",
        "The NVIDIA driver is too old for the installed torch (the driver reports CUDA {version})",
        "Update the driver, or give the engine its own Python environment (python = … in lanes.toml) with "
        "a torch built for the driver's CUDA.",
    ),
    Cause(
        r"CUDA driver version is insufficient for CUDA runtime version",
        EngineLoadFailed,
        "driver-too-old",
        "The NVIDIA driver is too old for the engine's CUDA libraries",
        "Update the driver, or give the engine its own Python environment (python = … in lanes.toml) with "
        "packages built for the driver's CUDA.",
    ),
    Cause(
        r"Found no NVIDIA driver|No CUDA GPUs are available|no CUDA-capable device is detected"
        r"|libcuda\.so\.1: cannot open shared object file|Torch not compiled with CUDA enabled",
        EngineLoadFailed,
        "no-nvidia-driver",
        "There is no usable NVIDIA GPU or driver",
        _DRIVER_HINT,
    ),
    Cause(
        r"no kernel image is available for execution on the device",
        EngineLoadFailed,
        "gpu-architecture",
        "The engine's packages hold no code for this GPU's architecture",
        "LMDeploy's wheels serve compute capability 7.0, 7.5, 8.0, 8.6, 8.9, 9.0, 10.0 and 12.0; use "
        "another engine or a build for this GPU.",
    ),
    Cause(
        r"Unsupported group_size=(?P<size>\d+)",
        EngineLoadFailed,
        "group-size",
        "The checkpoint is quantised in groups of {size}; TurboMind takes groups of 128",
        "Quantise again with `--w-group-size 128`, or use an engine that takes this checkpoint.",
    ),
    Cause(
        r"model type `(?P<what>[^`]+)` but Transformers does not recognize this architecture"
        r"|module transformers has no attribute (?P<what2>\w+)"
        r"|Can not found rewrite for architectures: \[?'?(?P<what3>\w+)"
        r"|Unrecognized model in (?P<what4>\S+)\. |unsupported vl model with config (?P<what5>\w+)",
        EngineLoadFailed,
        "unsupported-architecture",
        "The engine does not know this model's architecture ({what})",
        "Use another engine or a newer version; a model with code of its own needs trust_remote_code = true.",
    ),
    Cause(
        r"KeyError: '(?P<what>(?:model\.)?(?:vision_tower|multi_modal_projector)\.[^']+)'",
        EngineLoadFailed,
        "vision-weight-names",
        "LMDeploy does not know the names of the checkpoint's vision weights ({what})",
        "It takes LLaVA under the names of the hub's checkpoints (vision_tower.vision_model.…), not as "
        "transformers 5 saves it anew. Use the published files, or the engine transformers.",
    ),
    Cause(
        r"has no attribute 'language_config'",
        EngineLoadFailed,
        "vision-text-config",
        "The checkpoint's config.json does not say which language model is inside",
        'Add the language model\'s class to its text_config, such as "architectures": ["LlamaForCausalLM"].',
    ),
    Cause(
        r"NotImplementedError: <(?P<what>\w+_vision\w*)> is not implemented",
        EngineLoadFailed,
        "vision-tower",
        "LMDeploy's LLaVA does not know this vision tower ({what})",
        'It takes CLIP towers only. Set the lane\'s engine to "transformers".',
    ),
    Cause(
        r"requires you to execute the configuration file|contains custom code which must be executed",
        EngineLoadFailed,
        "remote-code",
        "The model brings program code of its own",
        "Set trust_remote_code = true for the lane only if you trust the model's source.",
    ),
    Cause(
        r"couldn't connect to '?https?://\S+ to load the files|LocalEntryNotFoundError|OfflineModeIsEnabled"
        r"|outgoing traffic has been disabled|Cannot find the requested files in the local cache"
        r"|cannot find the requested files in the disk cache",
        EngineLoadFailed,
        "hub-offline",
        "The model is not on this machine and the model hub can't be reached",
        "Connect to the network (HF_HUB_OFFLINE must be unset), or download the model elsewhere and name "
        "its folder.",
    ),
    Cause(
        r"Repo id must be in the form|is not a valid model identifier",
        EngineLoadFailed,
        "model-not-here",
        "There is no model at the lane's path",
        _FILES_HINT,
    ),
    Cause(
        r"no file named \S+|does not appear to have a file named \S+|Can't load the configuration of"
        r"|Unrecognized processing class in|Couldn't instantiate the backend tokenizer"
        r"|Can't load tokenizer for|SafetensorError|is not a valid JSON file"
        r"|No such file or directory: '\S*(?:config\.json|\.safetensors)",
        EngineLoadFailed,
        "model-incomplete",
        "The model's folder is incomplete or damaged",
        _FILES_HINT,
    ),
    Cause(
        r"Missing dependencies for serving",
        EngineNotInstalled,
        "engine-not-installed",
        "The packages for `transformers serve` are missing",
        'Install them into the engine\'s environment: pip install "transformers[serving]".',
    ),
    Cause(
        r"(?:ModuleNotFoundError: |\()?No module named '(?P<package>[\w]+)",
        EngineNotInstalled,
        "engine-not-installed",
        "The engine's Python environment lacks the package {package}",
        "Install it there: `pip install -r requirements.txt` for LMDyno's own environment.",
    ),
    Cause(
        r"(?:ImportError: .*|Using .*|Loading .*|\w+ )requires[^\n]*?"
        r"\b(?P<package>Torchvision|PIL|gptqmodel|autoawq|accelerate|gguf|bitsandbytes)\b",
        EngineNotInstalled,
        "engine-not-installed",
        "The engine's Python environment lacks the package {package}",
        "Install it there with pip, or use a checkpoint that needs no such package.",
    ),
    Cause(
        r"cannot import name '(?P<what>\w+)' from 'transformers|LMDeploy requires transformers(?P<what2>\S+)"
        r"|transformers\S* is required for a normal functioning|The size of tensor a \(\d+\) must match",
        EngineNotInstalled,
        "wrong-transformers",
        "The installed transformers does not fit this engine",
        "Install the versions that requirements.txt pins, or give the engine its own Python environment "
        "(python = … in lanes.toml).",
    ),
    Cause(
        r"libcudart\.so\S*: cannot open|libcublas\S*: cannot open|libnccl\S*: cannot open",
        EngineNotInstalled,
        "cuda-libraries",
        "CUDA libraries that the engine needs are missing",
        "Install LMDeploy with its dependencies again: `pip install --force-reinstall lmdeploy`.",
    ),
    Cause(
        r"unrecognized arguments: (?P<what>.+)|No such option '?(?P<what2>--[\w-]+)"
        r"|error: argument (?P<what3>.+)|Invalid value for '(?P<what4>[^']+)'",
        EngineLoadFailed,
        "bad-flag",
        "The engine does not take an option that it was given: {what}",
        "The engine's version differs from the one LMDyno knows; install what requirements.txt pins.",
    ),
)

_RUNTIME_CODES: dict[str, type[EngineError]] = {
    "engine-start-timeout": EngineTimeout,
    "engine-load-failed": EngineLoadFailed,
    "engine-killed": EngineCrashed,
    "engine-died": EngineCrashed,
    "engine-not-running": EngineError,
    "engine-stopping": EngineBusy,
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
