"""Calibration text made by the model itself: its answers to the built-in prompts.

A model is used on what it writes, so that its own answers show the quantiser the activations that matter,
without a download and for every model that can write. Answers are sampled from a fixed seed until there are
enough tokens.

Imports torch and transformers; the quantisation's worker runs it.
"""

import gc
import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from core.errors import InputError
from core.i18n import N_
from core.jobs.worker import Report
from core.models.awq.options import (
    ANSWER_TOKENS,
    PROMPT_TOKENS,
    PROMPTS,
    CalibrationText,
    Conversation,
)

SEED = 0
TEMPERATURE = 0.8
SHARE = 0.2
"""Of a quantisation's progress that making the answers is given."""
TOP_P = 0.95
AT_MOST = 192
"""Answers written at once on a GPU."""
ON_CPU = 16
MOST_ANSWERS = 40
"""To each prompt: a model that has not written enough by then answers with next to nothing."""


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

    torch.manual_seed(SEED)
    at_once = _answers_at_once(model, answer_tokens)
    most = MOST_ANSWERS * len(prompts)
    written = 0
    for start in range(0, most, at_once):
        batch = [prompts[place % len(prompts)] for place in range(start, min(start + at_once, most))]
        answers, count = _generate(model, tokenizer, batch, answer_tokens)
        written += count
        done = min(written, tokens)
        report(
            N_("Answering the calibration prompts: {done:,} of {tokens:,} tokens", done=done, tokens=tokens),
            SHARE * done / tokens,
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
        return ON_CPU
    config = model.config.get_text_config()
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    token_bytes = config.num_hidden_layers * 2 * heads * head_dim * model.dtype.itemsize
    answer_bytes = token_bytes * (answer_tokens + PROMPT_TOKENS)
    free_bytes, _ = torch.cuda.mem_get_info()
    return max(1, min(AT_MOST, int(free_bytes / 2 / answer_bytes)))


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
            temperature=TEMPERATURE,
            top_p=TOP_P,
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
