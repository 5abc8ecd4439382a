"""The dtype that a CPU lane computes in unless the lanes file says otherwise.

The dtype decides over speed, since decoding is bound by the bytes of the weights that are read, and by
whether the CPU has instructions for it:

- bfloat16 where it multiplies natively: AMX, AVX512-BF16, Arm's BF16 extension.
- else float16 where it is at least converted in hardware (AVX512-FP16, F16C, Arm's half precision). On an AMD
  EPYC without AVX-512 the demo model decodes at 12.1 tok/s in float16, 9.8 in bfloat16, and 7.6 in float32.
- else float32, which every CPU computes.
"""

import platform
import subprocess
from functools import cache
from pathlib import Path

_BFLOAT16 = frozenset({"amx_bf16", "avx512_bf16", "bf16", "FEAT_BF16"})
_FLOAT16 = frozenset({"avx512_fp16", "f16c", "asimdhp", "FEAT_FP16"})
_SYSCTL = "hw.optional.arm."


def native_dtype(features: frozenset[str]) -> str:
    """Return what a CPU with these features computes natively; their names are Linux' or those of macOS'
    sysctl.
    """
    if features & _BFLOAT16:
        return "bfloat16"
    return "float16" if features & _FLOAT16 else "float32"


@cache
def cpu_features() -> frozenset[str]:
    """Return what the operating system says that this CPU can do; empty where it doesn't say."""
    try:
        match platform.system():
            case "Linux":
                return _of_cpuinfo(Path("/proc/cpuinfo").read_text("utf-8"))
            case "Darwin":
                command = ["/usr/sbin/sysctl", "hw.optional.arm"]
                run = subprocess.run(command, capture_output=True, text=True, timeout=5, check=True)
                return _of_sysctl(run.stdout)
    except (OSError, subprocess.SubprocessError):
        pass
    return frozenset()


def _of_cpuinfo(cpuinfo: str) -> frozenset[str]:
    """The features that all cores have: `flags` on x86, `Features` on Arm."""
    cores = [
        frozenset(value.split())
        for key, _, value in (line.partition(":") for line in cpuinfo.splitlines())
        if key.strip() in ("flags", "Features")
    ]
    return frozenset.intersection(*cores) if cores else frozenset()


def _of_sysctl(text: str) -> frozenset[str]:
    lines = (line.partition(":") for line in text.splitlines())
    return frozenset(name.removeprefix(_SYSCTL) for name, _, value in lines if value.strip() == "1")
