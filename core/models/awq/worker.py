"""Quantises one checkpoint to W4A16, in a child process of the engine's Python.

A worker of `core.jobs`: the half-written result stays in the job's scratch folder until it is whole, and then
becomes the model's AWQ folder in one step.

The calibration text may be the model's own answers to the built-in prompts. A model is used on what it
writes, so that its own answers show the quantiser the activations that matter, without a download and for
every model that can write. Answers are sampled from a fixed seed until there are enough tokens.
"""

import contextlib
import gc
import hashlib
import io
import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from core.errors import InputError, LMDynoError
from core.files import usual_umask
from core.i18n import N_
from core.jobs.worker import Report, run
from core.models.awq.options import (
    ANSWER_TOKENS,
    GROUP_SIZE,
    PROMPT_TOKENS,
    PROMPTS,
    AwqOptions,
    CalibrationSource,
    CalibrationText,
    Conversation,
    Rounding,
    python_docs,
    read_text,
    sample_starts,
)
from core.models.awq.quantiser import PassProgress, explain
from core.models.awq.rounding import BITS, pack_fast
from core.models.checkpoint import CheckpointFacts, read_checkpoint
from core.models.model_folders import Provenance

CALIBRATION_FILE = "calibration.jsonl"
_SAVING_AT = 0.95
_STATISTICS = ("inputs_stats.pth", "outputs_stats.pth")
_PACKAGES = ("lmdeploy", "torch", "transformers")
_SEED = 0
_TEMPERATURE = 0.8
_ANSWERS_SHARE = 0.2
"""Of a quantisation's progress that making the answers is given."""
_TOP_P = 0.95
_MOST_AT_ONCE = 192
"""Answers written at once on a GPU."""
_AT_ONCE_ON_CPU = 16
_MOST_ANSWERS = 40
"""To each prompt: a model that has not written enough by then answers with next to nothing."""


@dataclass(frozen=True, slots=True)
class _Calibration:
    """The calibration data; `samples` are [1, seqlen] LongTensors, None for a hub's set."""

    name: str
    sha256: str | None
    samples: list[Any] | None
    text: str | None = None
    """What the model wrote itself, which is nowhere else."""


def quantize(arguments: Mapping[str, Any], report: Report) -> Mapping[str, Any]:
    """The job: arguments are `source`, `scratch`, `target` (folders) and `options` (AwqOptions)."""
    options = AwqOptions(**arguments["options"])
    source, scratch, target = (Path(arguments[name]) for name in ("source", "scratch", "target"))
    started_at, began = datetime.now(UTC), time.monotonic()
    before = read_checkpoint(source)
    if scratch.parent.stat().st_mode & 0o077:
        os.umask(usual_umask())  # the result goes where others can read
    scratch.mkdir(parents=True)
    report(N_("Loading lmdeploy"))
    try:
        calibration = _calibration(options, source, report)
        if options.rounding == Rounding.COMPENSATED:
            _compensated(options, source, scratch, calibration, report)
        else:
            _auto_awq(options, source, scratch, before, calibration, report)
    except LMDynoError:
        raise
    except Exception as exc:
        traceback.print_exc()
        if known := explain(traceback.format_exc()):
            raise known from exc
        raise
    report(N_("Checking the result"), 0.98)
    for name in _STATISTICS:
        (scratch / name).unlink(missing_ok=True)
    if calibration.text is not None:
        (scratch / CALIBRATION_FILE).write_text(calibration.text, "utf-8")
    provenance = Provenance(
        source=str(source),
        source_config_sha256=hashlib.sha256((source / "config.json").read_bytes()).hexdigest(),
        started_at=started_at.isoformat(timespec="seconds"),
        duration_s=round(time.monotonic() - began, 1),
        source_bytes=before.weight_bytes,
        result_bytes=read_checkpoint(scratch).weight_bytes,
        **_settings(options, calibration),
    )
    provenance.write(scratch)
    _publish(scratch, target)
    return {
        "path": str(target),
        "source_bytes": provenance.source_bytes,
        "result_bytes": provenance.result_bytes,
    }


def _settings(options: AwqOptions, calibration: _Calibration) -> dict[str, Any]:
    without_data = options.source is CalibrationSource.NONE
    return {
        "tool": "lmdyno" if options.rounding == Rounding.COMPENSATED else "lmdeploy auto_awq",
        "calibration": calibration.name,
        "calibration_sha256": calibration.sha256,
        "calibration_file": None if calibration.text is None else CALIBRATION_FILE,
        "samples": 0 if without_data else options.samples,
        "seqlen": None if without_data else options.seqlen,
        "search_scale": options.search_scale and not without_data,
        "batch_size": options.samples if options.rounding == Rounding.COMPENSATED else options.batch_size,
        "rounding": options.rounding,
        "dtype": options.dtype,
        "bits": BITS,
        "group_size": GROUP_SIZE,
        "versions": {package: version(package) for package in _PACKAGES},
        "device": _device_name(options),
    }


def _auto_awq(
    options: AwqOptions,
    source: Path,
    scratch: Path,
    facts: CheckpointFacts,
    calibration: _Calibration,
    report: Report,
) -> None:
    import lmdeploy.lite.apis.calibrate as calibrate_module
    import torch
    from lmdeploy.lite.apis.auto_awq import auto_awq

    on_gpu = options.device != "cpu"
    if not on_gpu:
        # LMDeploy prints CUDA's peak memory after each layer, which raises where there is no CUDA.
        torch.cuda.max_memory_allocated = lambda *_args, **_kwargs: 0
    if calibration.samples is not None:
        # auto_awq has no argument for data of one's own; this name is where it looks its set up.
        calibrate_module.get_calib_loaders = lambda *_args, **_kwargs: calibration.samples
    pack_fast()
    without_data = options.source is CalibrationSource.NONE
    answered = options.source is CalibrationSource.OWN_ANSWERS
    done_before = _ANSWERS_SHARE if answered else 0.0
    progress = PassProgress(
        facts.layers,
        calibrates=not without_data,
        search_scale=options.search_scale,
        on_gpu=on_gpu,
        done_before=done_before,
    )

    def follow(line: str) -> None:
        if step := progress.take(line):
            report(*step)

    named = options.source is CalibrationSource.NAMED_SET
    report(N_("Loading the weights"), done_before)
    with contextlib.redirect_stdout(_Lines(sys.stdout, follow)):
        auto_awq(
            str(source),
            work_dir=str(scratch),
            # Checked against LMDeploy's list even where the data is ours.
            calib_dataset=options.calibration if named else "wikitext2",
            calib_samples=0 if without_data else options.samples,
            calib_seqlen=options.seqlen,
            batch_size=options.batch_size,
            w_bits=BITS,
            w_group_size=GROUP_SIZE,
            search_scale=options.search_scale,
            device="cuda" if on_gpu else "cpu",
            dtype=options.dtype,
        )


def _compensated(
    options: AwqOptions, source: Path, scratch: Path, calibration: _Calibration, report: Report
) -> None:
    from lmdeploy.lite.apis.calibrate import get_calib_loaders, load_model_and_tokenizer

    from core.models.awq.rounding import quantize_llama, save

    done_before = _ANSWERS_SHARE if options.source is CalibrationSource.OWN_ANSWERS else 0.0

    def on_layer(done: int, layers: int) -> None:
        report(
            N_("Rounding: {done} of {layers} layers", done=done, layers=layers),
            done_before + (_SAVING_AT - done_before) * done / layers,
        )

    report(N_("Loading the weights"), done_before)
    pack_fast()
    _, _, model, tokenizer, _, _ = load_model_and_tokenizer(
        str(source), dtype=options.dtype, work_dir=str(scratch)
    )
    samples = calibration.samples
    if samples is None:
        samples = get_calib_loaders(
            options.calibration, tokenizer, nsamples=options.samples, seqlen=options.seqlen
        )
    quantize_llama(
        model,
        samples,
        device="cpu" if options.device == "cpu" else "cuda",
        search_scale=options.search_scale,
        on_layer=on_layer,
    )
    report(N_("Saving the weights"), _SAVING_AT)
    save(model, tokenizer, scratch)


def _calibration(options: AwqOptions, source: Path, report: Report) -> _Calibration:
    match options.source:
        case CalibrationSource.NONE | CalibrationSource.NAMED_SET:
            return _Calibration(options.calibration, None, None)
        case CalibrationSource.OWN_ANSWERS:
            return _from_own_answers(options, source, report)
        case CalibrationSource.PYTHON_DOCS:
            text = python_docs()
        case CalibrationSource.FILE:
            text = read_text(Path(options.calibration))
    report(N_("Reading the calibration text"))
    return _Calibration(text.name, text.sha256, _samples(text, source, options.samples, options.seqlen))


def _from_own_answers(options: AwqOptions, source: Path, report: Report) -> _Calibration:
    report(N_("Loading the weights"), 0.0)
    text = own_answers(
        source,
        tokens=options.samples * options.seqlen,
        device="cpu" if options.device == "cpu" else "cuda",
        dtype=options.dtype,
        report=report,
    )
    samples = _samples(text, source, options.samples, options.seqlen)
    return _Calibration(text.name, text.sha256, samples, as_jsonl(text.documents))


def own_answers(
    source: Path,
    *,
    tokens: int,
    device: str,
    dtype: str,
    report: Report,
    prompts: Sequence[str] = PROMPTS,
    answer_tokens: int = ANSWER_TOKENS,
) -> CalibrationText:
    """Let the model in `source` answer `prompts` until it has written `tokens` tokens.

    The documents are conversations where the model has a chat template, and plain text where it has none. The
    digest is that of `as_jsonl`.

    Raises InputError (`own-answers-too-short`) for a model that ends most answers at once.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(source)
    model = AutoModelForCausalLM.from_pretrained(source, dtype=getattr(torch, dtype)).to(device).eval()
    try:
        documents = tuple(_answered(model, tokenizer, prompts, tokens, answer_tokens, report))
    finally:
        del model
        gc.collect()
        if device != "cpu":
            torch.cuda.empty_cache()
    digest = hashlib.sha256(as_jsonl(documents).encode()).hexdigest()
    return CalibrationText(f"the model's own answers to {len(prompts)} prompts", digest, documents)


def as_jsonl(documents: Sequence[str | Conversation]) -> str:
    """The documents in the form that `--calibration FILE.jsonl` takes."""
    entries = ({"text": doc} if isinstance(doc, str) else {"messages": doc} for doc in documents)
    return "".join(f"{json.dumps(entry, ensure_ascii=False)}\n" for entry in entries)


def _answered(
    model: Any,  # noqa: ANN401 - transformers' classes
    tokenizer: Any,  # noqa: ANN401
    prompts: Sequence[str],
    tokens: int,
    answer_tokens: int,
    report: Report,
) -> Iterator[str | Conversation]:
    """Prompts with answers, over and over, until `tokens` were written."""
    import torch

    torch.manual_seed(_SEED)
    at_once = _answers_at_once(model, answer_tokens)
    most = _MOST_ANSWERS * len(prompts)
    written = 0
    for start in range(0, most, at_once):
        batch = [prompts[place % len(prompts)] for place in range(start, min(start + at_once, most))]
        answers, count = _generate(model, tokenizer, batch, answer_tokens)
        written += count
        done = min(written, tokens)
        report(
            N_("Answering the calibration prompts: {done:,} of {tokens:,} tokens", done=done, tokens=tokens),
            _ANSWERS_SHARE * done / tokens,
        )
        for prompt, answer in zip(batch, answers, strict=True):
            if answer:
                yield _document(tokenizer, prompt, answer)
        if written >= tokens:
            return
    raise InputError(
        N_(
            "The model writes too little to calibrate on: {written:,} tokens in {answers:,} answers",
            written=written,
            answers=most,
        ),
        hint=N_("Use a text file, `python-docs`, or fewer samples."),
        code="own-answers-too-short",
    )


def _answers_at_once(model: Any, answer_tokens: int) -> int:  # noqa: ANN401
    """As many as half of the GPU's free memory takes: a step for many costs little more than for one."""
    import torch

    if model.device.type != "cuda":
        return _AT_ONCE_ON_CPU
    config = model.config.get_text_config()
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    token_bytes = config.num_hidden_layers * 2 * heads * head_dim * model.dtype.itemsize
    answer_bytes = token_bytes * (answer_tokens + PROMPT_TOKENS)
    free_bytes, _ = torch.cuda.mem_get_info()
    return max(1, min(_MOST_AT_ONCE, int(free_bytes / 2 / answer_bytes)))


def _generate(
    model: Any,  # noqa: ANN401
    tokenizer: Any,  # noqa: ANN401
    prompts: Sequence[str],
    answer_tokens: int,
) -> tuple[list[str], int]:
    """The answers to one batch, and how many tokens they are."""
    import torch

    # Answers are counted up to the first of these.
    ends = model.generation_config.eos_token_id
    ends = set(ends if isinstance(ends, list) else [ends])
    filler = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else next(iter(ends - {None}), 0)
    encoded = [_prompt_ids(tokenizer, prompt) for prompt in prompts]
    width = max(map(len, encoded))
    ids = [[filler] * (width - len(row)) + row for row in encoded]
    mask = [[0] * (width - len(row)) + [1] * len(row) for row in encoded]
    context = (
        getattr(model.config.get_text_config(), "max_position_embeddings", None) or width + answer_tokens
    )
    with torch.inference_mode():
        output = model.generate(
            torch.tensor(ids, device=model.device),
            attention_mask=torch.tensor(mask, device=model.device),
            max_new_tokens=max(1, min(answer_tokens, context - width)),
            pad_token_id=filler,
            do_sample=True,
            temperature=_TEMPERATURE,
            top_p=_TOP_P,
        )
    answers = [_until(row, ends) for row in output[:, width:].tolist()]
    return [tokenizer.decode(row, skip_special_tokens=True).strip() for row in answers], sum(
        map(len, answers)
    )


def _prompt_ids(tokenizer: Any, prompt: str) -> list[int]:  # noqa: ANN401
    if tokenizer.chat_template is None:
        return list(tokenizer(f"{prompt}\n").input_ids)
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": prompt}], add_generation_prompt=True, tokenize=False
    )
    return list(tokenizer(text, add_special_tokens=False).input_ids)


def _until(row: list[int], ends: set[int | None]) -> list[int]:
    end = next((place for place, token in enumerate(row) if token in ends), len(row))
    return row[:end]


def _document(tokenizer: Any, prompt: str, answer: str) -> str | Conversation:  # noqa: ANN401
    if tokenizer.chat_template is None:
        return f"{prompt}\n{answer}"
    return [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]


def _samples(text: CalibrationText, source: Path, samples: int, seqlen: int) -> list[Any]:
    import torch
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(source)
    tokens: list[int] = []
    for document in text.documents:
        if isinstance(document, str):
            plain = document
        elif tokenizer.chat_template is None:
            raise InputError(
                N_("The calibration file contains conversations, but the model has no chat template."),
                hint=N_("Use a file with plain text."),
                code="calibration-unreadable",
            )
        else:
            plain = tokenizer.apply_chat_template(document, tokenize=False)
        tokens += tokenizer(plain, add_special_tokens=False, verbose=False).input_ids
    return [
        torch.tensor([tokens[start : start + seqlen]])
        for start in sample_starts(len(tokens), samples, seqlen)
    ]


def _publish(scratch: Path, target: Path) -> None:
    try:
        scratch.rename(target)
    except OSError as exc:
        raise InputError(
            N_("Can't move the result to {path}: {reason}", path=target, reason=exc.strerror),
            hint=N_("Remove what is there, or choose another folder."),
            code="result-exists",
        ) from exc


def _device_name(options: AwqOptions) -> str:
    if options.device == "cpu":
        return "cpu"
    import torch

    return str(torch.cuda.get_device_name())


class _Lines(io.TextIOBase):
    """Passes text on, and every finished line to a function as well."""

    def __init__(self, stream: Any, take: Callable[[str], None]) -> None:  # noqa: ANN401 - typeshed's TextIO
        self._stream = stream
        self._take = take
        self._rest = ""

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        self._stream.write(text)
        *lines, self._rest = (self._rest + text).split("\n")
        for line in lines:
            self._take(line)
        return len(text)

    def flush(self) -> None:
        self._stream.flush()


if __name__ == "__main__":
    sys.exit(run(quantize))
