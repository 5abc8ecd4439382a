"""Options of a quantisation to W4A16, the source of the calibration text among them.

Only the standard library and `core.errors`: the worker in the engine's Python reads it too.
"""

import re
import sys
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from core.errors import InputError
from core.i18n import N_
from core.units import count

GROUP_SIZE = 128
"""Weights that share one scale: the only size that TurboMind takes for AWQ (`turbomind/converter.py`)."""
NO_DATA = "none"
OWN_ANSWERS = "own-answers"
PYTHON_DOCS = "python-docs"
NAMED_SETS = (
    "wikitext2",
    "c4",
    "pileval",
    "gsm8k",
    "neuralmagic_calibration",
    "open-platypus",
    "openwebtext",
)
"""What LMDeploy 0.18's `--calib-dataset` takes; each is downloaded from the Hugging Face hub."""

_DEVICE = re.compile(r"cpu|cuda(:\d+)?")


class CalibrationSource(StrEnum):
    NONE = "none"
    """Data-free: round to nearest, without looking at activations."""
    OWN_ANSWERS = "own-answers"
    """The model's own answers to built-in prompts: for every model that can write, without a download."""
    PYTHON_DOCS = "python-docs"
    """The language reference that Python ships for `help()`: English text that is on every machine."""
    NAMED_SET = "named-set"
    FILE = "file"
    """A text file, or JSONL with `text` or `messages` in each line."""


class Rounding(StrEnum):
    NEAREST = "nearest"
    """Each weight to the nearest value, by LMDeploy's `auto_awq`."""
    COMPENSATED = "compensated"
    """Layer after layer, so that each layer's output changes least (`core.models.awq.compensated`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AwqOptions:
    """Options of one quantisation, under LMDeploy's own names; raises InputError for values out of range."""

    calibration: str = PYTHON_DOCS
    """`none`, `own-answers`, `python-docs`, one of NAMED_SETS, or the path of a file."""
    samples: int = 32
    """Calibration sequences (`--calib-samples`)."""
    seqlen: int = 1024
    """Tokens in each (`--calib-seqlen`)."""
    search_scale: bool = False
    """Try 20 scales for each layer and keep the best: better, and many times slower."""
    batch_size: int = 1
    """Sequences that go through a layer at once.

    The scale search finds a scale for each batch and uses their mean. A batch of all samples is searched
    once, for the scale that suits them together. Compensated rounding always takes all together.
    """
    rounding: str = Rounding.NEAREST
    """`nearest`, or `compensated`: loses less, needs data and a model of Llama's structure."""
    dtype: str = "float16"
    """What the source is loaded as: `float16`, in which LMDeploy keeps its statistics, or `bfloat16`."""
    device: str = "cuda"
    """`cuda` (the GPU with most free memory), `cuda:N` or `cpu`."""
    out: str | None = None
    """The folder that will hold the result; None is `NAME-awq` in the models folder."""
    python: str = sys.executable
    """Interpreter with lmdeploy."""

    def __post_init__(self) -> None:
        _within("samples", self.samples, 1, 4096)
        _within("seqlen", self.seqlen, 16, 131_072)
        _within("batch_size", self.batch_size, 1, 256)
        if self.rounding not in list(Rounding):
            raise InputError(
                N_("{key} is {value}.", key="rounding", value=self.rounding),
                hint=N_("Choose nearest or compensated."),
            )
        if self.rounding == Rounding.COMPENSATED and self.source is CalibrationSource.NONE:
            raise InputError(
                N_("Error-compensated rounding needs a calibration text."),
                hint=N_("Choose a calibration text, or `nearest`."),
            )
        if self.dtype not in ("float16", "bfloat16"):
            raise InputError(
                N_("{key} is {value}.", key="dtype", value=self.dtype),
                hint=N_("Choose float16 or bfloat16."),
            )
        if not _DEVICE.fullmatch(self.device):
            raise InputError(
                N_("{key} is {value}.", key="device", value=self.device),
                hint=N_("Choose cuda, cuda:N, or cpu."),
            )
        if self.device == "cpu" and self.dtype == "bfloat16":
            raise InputError(
                N_("LMDeploy loads bfloat16 only with a GPU that supports it."),
                hint=N_("Choose float16 on the CPU."),
            )

    @property
    def source(self) -> CalibrationSource:
        if self.calibration == NO_DATA:
            return CalibrationSource.NONE
        if self.calibration == OWN_ANSWERS:
            return CalibrationSource.OWN_ANSWERS
        if self.calibration == PYTHON_DOCS:
            return CalibrationSource.PYTHON_DOCS
        if self.calibration in NAMED_SETS:
            return CalibrationSource.NAMED_SET
        return CalibrationSource.FILE

    @property
    def calibration_file(self) -> Path | None:
        return Path(self.calibration).expanduser() if self.source is CalibrationSource.FILE else None


def _within(name: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise InputError(
            N_("{key} is {value}.", key=name, value=count(value)),
            hint=N_("Choose a value from {low} to {high}.", low=count(low), high=count(high)),
        )
