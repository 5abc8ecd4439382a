"""Checks before a quantisation starts.

The memory figures are rough by nature: they tell a job that can't succeed from one that may.
"""

import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from core import units
from core.codec import decode
from core.domain.specs import ModelSpec
from core.errors import EngineError, EngineNotInstalled, EngineOutOfMemory, InputError, LMDynoError
from core.i18n import N_
from core.models.awq.options import (
    ANSWER_TOKENS,
    GROUP_SIZE,
    OWN_ANSWERS,
    PROMPT_TOKENS,
    AwqOptions,
    CalibrationSource,
)
from core.models.checkpoint import CheckpointFacts, checkpoint_folder, read_checkpoint
from core.settings import PROJECT_ROOT
from core.telemetry.nvml import host_memory
from core.telemetry.samples import GpuFacts

_TIMEOUT_S = 300.0
_PROGRAM = "core.models.awq.quantiser"
_BYTES_16_BIT = 2
_BYTES_4_BIT = 0.5 + (2 + 0.5) / GROUP_SIZE
"""Of one weight: four bits, and its part of the group's 16-bit scale and 4-bit zero point."""
_PROCESS_BYTES = 1.5 * 2**30
"""Resident memory of a Python process with torch and lmdeploy."""
_CUDA_BYTES = 0.6 * 2**30
"""GPU memory of a CUDA context with its libraries."""
_ANSWERS_AT_LEAST = 8
"""Answers to calibrate on that are written at once; fewer would take very long."""
_ACTIVATION_COPIES = 4
"""A layer's inputs and outputs of all samples, whole and as the parts they are joined from."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantiserStack:
    """The engine's packages, as far as quantising goes."""

    lmdeploy: str | None
    """Version; None if it is not installed."""
    missing: str | None
    """The package whose absence keeps lmdeploy from loading."""
    quantisable: tuple[str, ...]
    """Architectures in the quantiser's table."""
    calibratable: tuple[str, ...]
    """Those of them that it can calibrate; the others go without data."""
    servable: tuple[str, ...]
    """Architectures in TurboMind's table."""
    turbomind_problem: str | None
    """Why TurboMind can't be loaded here, such as a missing driver; None if it can."""
    has_datasets: bool


@lru_cache(maxsize=8)
def ask_stack(python: str) -> QuantiserStack:
    """The stack behind an interpreter.

    Raises InputError (`no-python`) for a path that is no interpreter, EngineNotInstalled where lmdeploy or a
    package that it needs is missing, EngineError (`lmdeploy-broken`) where it fails to load otherwise.
    """
    try:
        done = subprocess.run(
            [python, "-m", _PROGRAM],
            cwd=PROJECT_ROOT,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_S,
            check=False,
        )
    except OSError as exc:
        raise InputError(
            N_("Can't run {path}: {reason}", path=python, reason=exc.strerror),
            hint=N_("Choose a Python interpreter with lmdeploy."),
            code="no-python",
        ) from exc
    except subprocess.TimeoutExpired as exc:
        raise EngineError(
            N_(
                "Importing lmdeploy in {path} took longer than {time}.",
                path=python,
                time=f"{_TIMEOUT_S:.0f} s",
            ),
            hint=N_("The machine is very busy. Try again."),
            code="lmdeploy-broken",
        ) from exc
    if done.returncode != 0:
        last_line = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise EngineError(
            N_("Can't import lmdeploy in {path}: {reason}", path=python, reason=last_line),
            hint=N_("Run `lmdyno doctor`. The installed versions may be incompatible."),
            code="lmdeploy-broken",
        )
    stack = decode(QuantiserStack, done.stdout.strip().splitlines()[-1])
    if stack.lmdeploy is None:
        raise EngineNotInstalled(
            N_("The environment of {path} lacks the package {package}.", path=python, package=stack.missing),
            hint=N_('Run `pip install "lmdeploy[lite]"` in it, or choose another interpreter.'),
        )
    return stack


@dataclass(frozen=True, slots=True)
class Concern:
    """Something to know before a quantisation; a blocking one keeps it from starting."""

    problem: LMDynoError
    blocking: bool


def check_awq(
    model: ModelSpec,
    options: AwqOptions,
    target: Path,
    gpus: Sequence[GpuFacts],
    *,
    stack: Callable[[str], QuantiserStack] = ask_stack,
) -> tuple[Concern, ...]:
    """All concerns. Slow (ten seconds) when the engine's Python is asked for the first time."""
    try:
        facts = read_checkpoint(model.checkpoint)
    except LMDynoError as problem:
        return (Concern(problem, blocking=True),)
    concerns = [
        *_about_sizes(facts),
        *_about_text(options),
        *_about_target(facts, model, target),
        *_about_memory(facts, options, gpus),
    ]
    # Whether LMDeploy can do it is asked last, and only if there is a point to it.
    if not any(concern.blocking for concern in concerns):
        try:
            concerns += _about_lmdeploy(facts, options, stack(options.python))
        except LMDynoError as problem:
            concerns.append(Concern(problem, blocking=True))
    return tuple(concerns)


def choose_gpu(options: AwqOptions, gpus: Sequence[GpuFacts]) -> GpuFacts | None:
    """The GPU that `options.device` means now; None for the CPU. Raises InputError (`no-gpu`)."""
    if options.device == "cpu":
        return None
    if not gpus:
        raise InputError(
            N_("This machine has no NVIDIA GPU."),
            hint=N_("Quantise on a machine with a GPU. The CPU (`--device cpu`) also works, but slowly."),
            code="no-gpu",
        )
    if ":" not in options.device:
        return max(gpus, key=lambda gpu: gpu.free_bytes or 0)
    index = int(options.device.partition(":")[2])
    for gpu in gpus:
        if gpu.index == index:
            return gpu
    raise InputError(
        N_("There is no GPU {index}.", index=index),
        hint=N_("Available: {names}.", names=", ".join(f"{gpu.index} ({gpu.name})" for gpu in gpus)),
        code="no-gpu",
    )


def _about_sizes(facts: CheckpointFacts) -> Iterator[Concern]:
    if facts.quantization:
        yield _blocking(
            InputError(
                N_("The checkpoint is already quantised ({method}).", method=facts.quantization),
                hint=N_("Start from the 16-bit checkpoint."),
                code="already-quantised",
            )
        )
    if odd := [width for width in facts.linear_in_features if width % GROUP_SIZE]:
        yield _blocking(
            InputError(
                N_(
                    "The widths of some linear layers ({widths}) are not multiples of {size}.",
                    widths=", ".join(map(str, odd)),
                    size=GROUP_SIZE,
                ),
                hint=N_("TurboMind supports AWQ only in groups of 128 weights, so this model can't be used."),
                code="sizes-not-divisible",
            )
        )


def _about_text(options: AwqOptions) -> Iterator[Concern]:
    file = options.calibration_file
    if file is not None and not file.is_file():
        yield _blocking(
            InputError(
                N_("The calibration file {file} doesn't exist.", file=file),
                hint=N_(
                    "Use a text or JSONL file, {own_answers}, python-docs, none, or a dataset such as c4.",
                    own_answers=OWN_ANSWERS,
                ),
                code="calibration-unreadable",
            )
        )
    if options.source is CalibrationSource.NAMED_SET:
        yield _warning(
            InputError(
                N_("{dataset} will be downloaded from the Hugging Face hub.", dataset=options.calibration),
                hint=N_("Without a network, use a custom file, `python-docs`, or no data."),
                code="needs-network",
            )
        )


def _about_target(facts: CheckpointFacts, model: ModelSpec, target: Path) -> Iterator[Concern]:
    if target.exists():
        yield _blocking(
            InputError(
                N_("{path} already exists.", path=target),
                hint=N_("Remove it, or choose another output folder."),
                code="result-exists",
            )
        )
    names = (model.name, checkpoint_folder(model.checkpoint).name, model.checkpoint.rpartition("/")[2])
    if not any(name.lower() in target.name.lower() for name in names):
        yield _warning(
            InputError(
                N_("The folder name {name} doesn't contain the model's name.", name=target.name),
                hint=N_("LMDeploy may choose the chat template by the path. Keep the model's name in it."),
                code="name-without-model",
            )
        )
    needed_bytes = result_bytes(facts)
    free_bytes = shutil.disk_usage(_existing(target)).free
    if free_bytes < needed_bytes * 1.1:
        yield _blocking(
            EngineError(
                N_(
                    "The result needs about {needed} of disk space, but only {free} are free.",
                    needed=units.gib(needed_bytes),
                    free=units.gib(free_bytes),
                ),
                hint=N_("Free disk space, or choose another output folder."),
                code="disk-full",
            )
        )


def _about_memory(facts: CheckpointFacts, options: AwqOptions, gpus: Sequence[GpuFacts]) -> Iterator[Concern]:
    host = host_memory()
    if (needed_bytes := _host_bytes(facts)) > host.available_bytes:
        error = EngineOutOfMemory(
            N_(
                "Loading the model needs about {needed} of memory, but only {free} are available.",
                needed=units.gib(needed_bytes),
                free=units.gib(host.available_bytes),
            ),
            hint=N_("Stop engines on this machine, or quantise on a machine with more memory."),
            code="host-out-of-memory",
        )
        yield Concern(error, blocking=needed_bytes > host.total_bytes)
    try:
        gpu = choose_gpu(options, gpus)
    except InputError as problem:
        yield _blocking(problem)
        return
    if gpu is None:
        if options.source is not CalibrationSource.NONE:
            yield _warning(
                InputError(
                    N_("Calibrating on a CPU takes many times longer than on a GPU."),
                    hint=N_("Without data (`none`), quantising takes about a minute."),
                    code="cpu-is-slow",
                )
            )
    elif gpu.free_bytes is not None and (needed_bytes := _gpu_bytes(facts, options)) > gpu.free_bytes:
        error = EngineOutOfMemory(
            N_(
                "Quantising needs about {needed} on GPU {index}, but only {free} are free.",
                needed=units.gib(needed_bytes),
                index=gpu.index,
                free=units.gib(gpu.free_bytes),
            ),
            hint=N_("Stop engines on that GPU, or choose fewer or shorter samples."),
        )
        yield Concern(error, blocking=gpu.total_bytes is not None and needed_bytes > gpu.total_bytes)


def _about_lmdeploy(facts: CheckpointFacts, options: AwqOptions, stack: QuantiserStack) -> Iterator[Concern]:
    name, lmdeploy = facts.architecture, f"LMDeploy {stack.lmdeploy}"
    if name not in stack.quantisable:
        yield _blocking(
            InputError(
                N_("{lmdeploy} can't quantise {architecture}.", lmdeploy=lmdeploy, architecture=name),
                hint=N_(
                    "Supported: {names}.", names=", ".join(sorted({*stack.quantisable} & {*stack.servable}))
                ),
                code="architecture-not-quantisable",
            )
        )
    elif name not in stack.servable:
        yield _blocking(
            InputError(
                N_(
                    "{lmdeploy} can quantise {architecture}, but its TurboMind engine can't serve it.",
                    lmdeploy=lmdeploy,
                    architecture=name,
                ),
                hint=N_(
                    "Supported: {names}.", names=", ".join(sorted({*stack.quantisable} & {*stack.servable}))
                ),
                code="architecture-not-servable",
            )
        )
    elif name not in stack.calibratable and options.source is not CalibrationSource.NONE:
        yield _blocking(
            InputError(
                N_(
                    "{lmdeploy} quantises {architecture} only without calibration data.",
                    lmdeploy=lmdeploy,
                    architecture=name,
                ),
                hint=N_("Set the calibration to `none`."),
                code="architecture-not-calibratable",
            )
        )
    if stack.turbomind_problem and options.device != "cpu":
        yield _warning(
            EngineError(
                N_(
                    "This machine can't serve the result because TurboMind doesn't load: {reason}",
                    reason=stack.turbomind_problem,
                ),
                hint=N_("Run `lmdyno doctor`."),
                code="turbomind-not-available",
            )
        )
    if options.source is CalibrationSource.NAMED_SET and not stack.has_datasets:
        yield _blocking(
            InputError(
                N_("LMDeploy's named calibration datasets need the package datasets."),
                hint=N_(
                    'Run `pip install "lmdeploy[lite]"` for {python}, or calibrate with a file.',
                    python=options.python,
                ),
                code="datasets-missing",
            )
        )


def result_bytes(facts: CheckpointFacts) -> int:
    """Size of the quantised weights: the language model's linear layers in 4 bits, the rest as it is."""
    others = _parameters(facts) - facts.linear_parameters
    return round(facts.linear_parameters * _BYTES_4_BIT + others * _BYTES_16_BIT)


def _host_bytes(facts: CheckpointFacts) -> int:
    return round(_parameters(facts) * _BYTES_16_BIT + result_bytes(facts) + _PROCESS_BYTES)


def _gpu_bytes(facts: CheckpointFacts, options: AwqOptions) -> int:
    """One layer, and while calibrating the embeddings and the activations of all samples at once."""
    layer_bytes = facts.linear_parameters * _BYTES_16_BIT / facts.layers
    needed_bytes = _CUDA_BYTES + 2 * layer_bytes
    if options.source is not CalibrationSource.NONE:
        tokens = options.samples * options.seqlen
        needed_bytes += facts.vocab_size * facts.hidden_size * _BYTES_16_BIT
        needed_bytes += tokens * facts.hidden_size * _BYTES_16_BIT * _ACTIVATION_COPIES
        batch_tokens = options.batch_size * options.seqlen
        needed_bytes += batch_tokens * facts.intermediate_size * _BYTES_16_BIT * _ACTIVATION_COPIES
    if options.source is CalibrationSource.OWN_ANSWERS:
        # The answers are written before the quantisation, by the whole model.
        needed_bytes = max(needed_bytes, _CUDA_BYTES + _answering_bytes(facts))
    return round(needed_bytes)


def _answering_bytes(facts: CheckpointFacts) -> float:
    cached = facts.layers * 2 * facts.kv_heads * facts.head_dim * _BYTES_16_BIT
    tokens = _ANSWERS_AT_LEAST * (ANSWER_TOKENS + PROMPT_TOKENS)
    return _parameters(facts) * _BYTES_16_BIT + tokens * cached


def _parameters(facts: CheckpointFacts) -> int:
    return facts.parameters or facts.weight_bytes // _BYTES_16_BIT


def _existing(folder: Path) -> Path:
    return next(parent for parent in (folder, *folder.parents) if parent.exists())


def _blocking(problem: LMDynoError) -> Concern:
    return Concern(problem, blocking=True)


def _warning(problem: LMDynoError) -> Concern:
    return Concern(problem, blocking=False)
