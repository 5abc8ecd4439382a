"""Why a quantisation failed, told from the traceback that LMDeploy or torch left.

A table of patterns, the first that matches counts. Standard library only, since the worker runs it.
"""

import re
from dataclasses import dataclass

from core.errors import EngineError, EngineNotInstalled, EngineOutOfMemory, InputError, LMDynoError


@dataclass(frozen=True, slots=True)
class _Failure:
    pattern: str
    kind: type[LMDynoError]
    code: str
    message: str
    hint: str


_FAILURES = (
    _Failure(
        r"OutOfMemoryError|CUDA out of memory|CUDA error: out of memory",
        EngineOutOfMemory,
        "engine-out-of-memory",
        "The GPU's memory did not suffice",
        "Stop other engines, or choose fewer samples, shorter ones, or a batch size of 1.",
    ),
    _Failure(
        r"^MemoryError|DefaultCPUAllocator: can't allocate|Cannot allocate memory",
        EngineOutOfMemory,
        "host-out-of-memory",
        "The machine's memory did not suffice: the whole model is held there",
        "Free memory, or quantise on a machine with more.",
    ),
    _Failure(
        r"No module named 'datasets'|requires the .?datasets",
        EngineNotInstalled,
        "datasets-missing",
        "LMDeploy's named calibration sets need the package datasets",
        'Run `pip install "lmdeploy[lite]"` in the engine\'s Python, or calibrate with a file of your own.',
    ),
    _Failure(
        r"LocalEntryNotFoundError|OfflineModeIsEnabled|ConnectionError|ConnectTimeout|Couldn't reach"
        r"|Max retries exceeded|Name or service not known|Temporary failure in name resolution"
        r"|Cannot reach|client has been closed|doesn't exist on the Hub",
        InputError,
        "calibration-unreachable",
        "The named calibration set could not be downloaded from the Hugging Face hub",
        "Check the network, or calibrate with a file of your own, with `python-docs`, or without data.",
    ),
    _Failure(
        r"No module named '(?P<what>lmdeploy|torch|transformers|accelerate)'",
        EngineNotInstalled,
        "engine-not-installed",
        "The engine's Python has no package {what}",
        'Run `pip install "lmdeploy[lite]"` there.',
    ),
    _Failure(
        r"assert torch\.isnan\(|probability tensor contains|history\)\s+raise Exception",
        EngineError,
        "not-a-number",
        "The activations or weights overflowed to NaN",
        "Quantise in bfloat16, or without data; some models can't be quantised in float16.",
    ),
    _Failure(
        r"assert org_w_shape\[-1\] % w_group_size|assert self\.in_features % self\.group_size"
        r"|assert out_features %",
        InputError,
        "sizes-not-divisible",
        "A linear layer's width is no multiple of the group size 128",
        "This model can't be quantised to W4A16.",
    ),
    _Failure(
        r"quantification and calibration of (?P<what>\w+) are not supported|KeyError: '(?P<key>\w+For\w+)'",
        InputError,
        "architecture-not-quantisable",
        "LMDeploy can't quantise {what}",
        "Its list is LAYER_TYPE_MAP in lmdeploy/lite/apis/calibrate.py.",
    ),
    _Failure(
        r"NVIDIA driver on your system is too old",
        EngineError,
        "driver-too-old",
        "The NVIDIA driver is older than the installed torch needs",
        "Update the driver, or install a torch built for an older CUDA.",
    ),
    _Failure(
        r"Found no NVIDIA driver|no CUDA-capable device|CUDA unknown error|No CUDA GPUs are available",
        EngineError,
        "no-gpu",
        "torch finds no NVIDIA GPU",
        "Run `lmdyno doctor`; `--device cpu` works without one, slowly.",
    ),
    _Failure(
        r"does not supports? bf16|does not support bfloat16",
        InputError,
        "no-bfloat16",
        "This GPU has no bfloat16",
        "Choose float16.",
    ),
    _Failure(
        r"No space left on device|Disk quota exceeded",
        EngineError,
        "disk-full",
        "The disk is full",
        "Free space beside the models folder, or choose another folder for the result.",
    ),
    _Failure(
        r"trust_remote_code=True|contains custom code which must be executed",
        InputError,
        "needs-remote-code",
        "The checkpoint brings its own code, which LMDyno does not run",
        "InternLM2 checkpoints can be converted: `lmdyno models internlm2`.",
    ),
)


def explain(traceback: str) -> LMDynoError | None:
    """The error that a traceback stands for; None for one that nobody has seen yet."""
    for failure in _FAILURES:
        if found := re.search(failure.pattern, traceback, re.MULTILINE):
            groups = found.groupdict()
            what = groups.get("what") or groups.get("key") or ""
            return failure.kind(failure.message.format(what=what), hint=failure.hint, code=failure.code)
    return None
