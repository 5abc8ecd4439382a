"""LMDeploy's quantiser: what it takes, how far it is, and why it failed.

What it takes stands in LMDeploy's tables: in the engine's Python, `python -m core.models.awq.quantiser`
prints them as a line of JSON. All else needs the standard library only, since the worker there imports it.

LMDeploy's `auto_awq` goes over the decoder layers three times and prints a line for each layer (calibrating,
smoothing) or each linear layer (packing); without data only the last pass is left. The layers of a pass cost
about the same, so a pass advances with the layer's number. How the passes compare is only roughly known
beforehand. Failures are a table of patterns over the traceback that LMDeploy or torch left; the first that
matches counts.
"""

import importlib.util
import json
import re
import sys
from dataclasses import dataclass

from core.errors import EngineError, EngineNotInstalled, EngineOutOfMemory, InputError, LMDynoError
from core.i18n import N_, Message, Text

_LOADING = 0.02
_SAVING_AT = 0.97


@dataclass(frozen=True, slots=True)
class _Failure:
    pattern: str
    kind: type[LMDynoError]
    code: str
    message: Message
    hint: Message


_FAILURES = (
    _Failure(
        r"OutOfMemoryError|CUDA out of memory|CUDA error: out of memory",
        EngineOutOfMemory,
        "engine-out-of-memory",
        N_("The GPU ran out of memory."),
        N_("Stop other engines, or choose fewer or shorter samples, or a batch size of 1."),
    ),
    _Failure(
        r"^MemoryError|DefaultCPUAllocator: can't allocate|Cannot allocate memory",
        EngineOutOfMemory,
        "host-out-of-memory",
        N_("The machine ran out of memory. Quantising keeps the whole model in memory."),
        N_("Free memory, or quantise on a machine with more memory."),
    ),
    _Failure(
        r"No module named 'datasets'|requires the .?datasets",
        EngineNotInstalled,
        "datasets-missing",
        N_("LMDeploy's named calibration datasets need the package datasets."),
        N_(
            'Run `pip install "lmdeploy[lite]"` in the engine\'s environment, or calibrate with a custom '
            "file."
        ),
    ),
    _Failure(
        r"LocalEntryNotFoundError|OfflineModeIsEnabled|ConnectionError|ConnectTimeout|Couldn't reach"
        r"|Max retries exceeded|Name or service not known|Temporary failure in name resolution"
        r"|Cannot reach|client has been closed|doesn't exist on the Hub",
        InputError,
        "calibration-unreachable",
        N_("Can't download the calibration dataset from the Hugging Face hub."),
        N_("Check the network, or calibrate with a custom file, with `python-docs`, or without data."),
    ),
    _Failure(
        r"No module named '(?P<what>lmdeploy|torch|transformers|accelerate)'",
        EngineNotInstalled,
        "engine-not-installed",
        N_("The engine's Python environment lacks the package {what}."),
        N_('Run `pip install "lmdeploy[lite]"` in it.'),
    ),
    _Failure(
        r"assert torch\.isnan\(|probability tensor contains|history\)\s+raise Exception",
        EngineError,
        "not-a-number",
        N_("The activations or weights overflowed to NaN."),
        N_("Quantise in bfloat16, or without data. Some models can't be quantised in float16."),
    ),
    _Failure(
        r"assert org_w_shape\[-1\] % w_group_size|assert self\.in_features % self\.group_size"
        r"|assert out_features %",
        InputError,
        "sizes-not-divisible",
        N_("The width of a linear layer is not a multiple of the group size, 128."),
        N_("This model can't be quantised to W4A16."),
    ),
    _Failure(
        r"quantification and calibration of (?P<what>\w+) are not supported|KeyError: '(?P<key>\w+For\w+)'",
        InputError,
        "architecture-not-quantisable",
        N_("LMDeploy can't quantise {what}."),
        N_("For the supported architectures, see LAYER_TYPE_MAP in lmdeploy/lite/apis/calibrate.py."),
    ),
    _Failure(
        r"NVIDIA driver on your system is too old",
        EngineError,
        "driver-too-old",
        N_("The NVIDIA driver is too old for the installed torch."),
        N_("Update the driver, or install a torch build for an older CUDA version."),
    ),
    _Failure(
        r"Found no NVIDIA driver|no CUDA-capable device|CUDA unknown error|No CUDA GPUs are available",
        EngineError,
        "no-gpu",
        N_("torch finds no NVIDIA GPU."),
        N_("Run `lmdyno doctor`. `--device cpu` works without a GPU, but slowly."),
    ),
    _Failure(
        r"does not supports? bf16|does not support bfloat16",
        InputError,
        "no-bfloat16",
        N_("This GPU doesn't support bfloat16."),
        N_("Choose float16."),
    ),
    _Failure(
        r"No space left on device|Disk quota exceeded",
        EngineError,
        "disk-full",
        N_("The disk is full."),
        N_("Free space in the models folder, or choose another output folder."),
    ),
    _Failure(
        r"trust_remote_code=True|contains custom code which must be executed",
        InputError,
        "needs-remote-code",
        N_("The checkpoint comes with its own code, which LMDyno doesn't run."),
        N_("To convert InternLM2 checkpoints, run `lmdyno models internlm2`."),
    ),
)


def explain(traceback: str) -> LMDynoError | None:
    """The error for a traceback; None for an unknown one."""
    for failure in _FAILURES:
        if match := re.search(failure.pattern, traceback, re.MULTILINE):
            groups = match.groupdict()
            what = groups.get("what") or groups.get("key") or ""
            return failure.kind(failure.message.filled(what=what), hint=failure.hint, code=failure.code)
    return None


@dataclass(frozen=True, slots=True)
class _Pass:
    name: Text
    line: re.Pattern[str]
    share: float
    counts_on_end: bool
    """The line comes when its layer is done; packing has many lines a layer, which only say that it began."""


_CALIBRATING = re.compile(r"\.(\d+), samples: \d+")
_SMOOTHING = re.compile(r"\.(\d+) smooth weight done")
_PACKING = re.compile(r"\.(\d+)\..* weight (?:packed|skipped)")


class PassProgress:
    """Follows one quantisation line by line; used by one thread."""

    def __init__(
        self,
        layers: int,
        *,
        calibrates: bool,
        search_scale: bool,
        on_gpu: bool,
        done_before: float = 0.0,
    ) -> None:
        """`done_before` is the share of the whole work that came before LMDeploy's."""
        self._layers = layers
        self._starts_at = done_before + _LOADING
        calibrating, smoothing = _shares(calibrates, search_scale, on_gpu)
        self._passes = (
            _Pass(N_("Calibrating"), _CALIBRATING, calibrating, True),
            _Pass(N_("Smoothing"), _SMOOTHING, smoothing, True),
            _Pass(N_("Packing"), _PACKING, 1 - calibrating - smoothing, False),
        )

    def take(self, line: str) -> tuple[Text, float] | None:
        """Return what the line says is being done, and how much of the whole is done; None if it says
        nothing.
        """
        done = 0.0
        for step in self._passes:
            if match := step.line.search(line):
                layer = int(match[1])
                within = min(1.0, (layer + step.counts_on_end) / self._layers)
                share = self._starts_at + (done + step.share * within) * (_SAVING_AT - self._starts_at)
                stage = N_(
                    "{stage}: layer {layer} of {layers}",
                    stage=step.name,
                    layer=min(layer + 1, self._layers),
                    layers=self._layers,
                )
                return stage, share
            done += step.share
        return None


def _shares(calibrates: bool, search_scale: bool, on_gpu: bool) -> tuple[float, float]:
    """Shares of calibrating and smoothing; packing has the rest.

    Packing is many small kernels on a GPU and takes most of the time there; a CPU computes slowly in float16,
    and spends it on calibrating. Searching multiplies that by its 20 scales.
    """
    if not calibrates:
        return 0.0, 0.0
    if search_scale:
        return (0.85, 0.02) if on_gpu else (0.96, 0.01)
    return (0.3, 0.05) if on_gpu else (0.75, 0.05)


def print_tables() -> None:
    """The program: print which architectures the LMDeploy here takes, and what it lacks."""
    facts: dict[str, object] = {
        "lmdeploy": None,
        "missing": None,
        "quantisable": [],
        "calibratable": [],
        "servable": [],
        "turbomind_problem": None,
        "has_datasets": importlib.util.find_spec("datasets") is not None,
    }
    try:
        import lmdeploy
        from lmdeploy.lite.apis.calibrate import LAYER_TYPE_MAP
        from lmdeploy.lite.quantization.awq import FC_FCS_MAP, NORM_FCS_MAP
        from lmdeploy.turbomind.supported_models import SUPPORTED_ARCHS
    except ModuleNotFoundError as exc:
        facts["missing"] = exc.name
    else:
        facts |= {
            "lmdeploy": lmdeploy.__version__,
            "quantisable": list(LAYER_TYPE_MAP),
            # LMDeploy notices only after the calibration pass that it can't smooth the others.
            "calibratable": [
                name
                for name, layer in LAYER_TYPE_MAP.items()
                if layer in FC_FCS_MAP and layer in NORM_FCS_MAP
            ],
            "servable": list(SUPPORTED_ARCHS),
            "turbomind_problem": _turbomind_problem(),
        }
    sys.stdout.write(f"\n{json.dumps(facts)}\n")


def _turbomind_problem() -> str | None:
    """Return why TurboMind's library can't be loaded; lmdeploy itself keeps silent about it."""
    try:
        import lmdeploy.turbomind._turbomind  # noqa: F401
    except (ImportError, OSError) as exc:
        return str(exc)
    return None


if __name__ == "__main__":
    print_tables()
