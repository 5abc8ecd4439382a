"""How sure the demo model is of its answers: which prompts examples and tests may rest on.

A greedy answer is the same on every machine only if no token of it is a near tie: float32, bfloat16, float16
and the weights of the GGUF file round differently, and so do CPUs. For each prompt this generates greedily in
float32, and writes the least margin (log-probability of the chosen token minus that of the best other one)
over the first tokens in each form, and whether all four forms choose the same tokens.

    python benchmarks/prompt_margins.py                    # the candidates → docs/measurements/prompts.*
    python benchmarks/prompt_margins.py "Your own prompt"  # a table, nothing is written
"""

import argparse
import json
import platform
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402
import transformers  # noqa: E402
from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: E402

from core.config.lanes import demo_model  # noqa: E402
from core.domain.conversation import EXAMPLES  # noqa: E402
from core.settings import load_settings  # noqa: E402

FIRST_TOKENS = 8
COMPARED_TOKENS = 16
SURE_NATS = 0.5
BATCH = 8
OUT = ROOT / "docs" / "measurements"

INTRODUCTION = """# How sure the demo model is of its answers

`python benchmarks/prompt_margins.py` on {cpu}, torch {torch}, transformers {transformers}.
SmolLM2-135M-Instruct, greedy, without a system prompt.

The margin of a form (nats) is the smallest difference of log-probabilities between a token of the float32
answer and the best other token, over the first {first_tokens} tokens; it is negative where the form prefers
another token. “Same answer” means the first {compared_tokens} tokens in all four forms. Examples and tests
use prompts with a margin of at least {sure} in float32 and the same answer: the first rows.
"""

CANDIDATES = (
    "What is the chemical symbol for water?",
    "What is the boiling point of water in Celsius?",
    "Explain what a GPU is.",
    "What is the capital of Japan?",
    "What is the capital of France?",
    "What is the capital of Italy?",
    "What is the first month of the year?",
    "What color is the sky on a clear day?",
    "Who wrote Romeo and Juliet?",
    "What is the largest planet in our solar system?",
    "What is photosynthesis?",
    "What is machine learning?",
    "Write a Python function that adds two numbers.",
    "Write a Python function that reverses a string.",
    "What is the Pythagorean theorem?",
    "What is the quadratic formula?",
    "Explain what a neural network is.",
    "Write a short story about a dragon.",
    "Name three primary colors.",
    "中国的首都是哪里？",
    "水的化学式是什么？",
    "请介绍一下你自己。",
    "你好！",
    "什么是人工智能？",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One prompt: how sure the first tokens are, and where another form of the weights would differ."""

    prompt: str
    answer: str
    """The first COMPARED_TOKENS tokens in float32."""
    least_margins_nats: dict[str, float]
    """By form, over the first FIRST_TOKENS tokens of this answer; negative where the form prefers another."""
    leaves_at: dict[str, int | None]
    """By form, the first token that it would not choose; None if it gives the same answer."""

    @property
    def same(self) -> bool:
        return all(place is None for place in self.leaves_at.values())

    @property
    def sure(self) -> bool:
        return self.same and self.least_margins_nats["float32"] >= SURE_NATS


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("prompts", nargs="*", help="prompts of your own; without any, the candidates")
    options = parser.parse_args()
    prompts = options.prompts or list(dict.fromkeys((*EXAMPLES.values(), *CANDIDATES)))
    findings = measure(prompts)
    table = as_table(findings)
    print(table)
    if not options.prompts:
        write(findings, table)


def measure(prompts: list[str]) -> list[Finding]:
    """Generates in float32, then asks every form in one pass which tokens it would have chosen."""
    model = demo_model(load_settings())
    assert model.gguf is not None
    tokenizer = AutoTokenizer.from_pretrained(model.checkpoint, padding_side="left")
    exact = load(model.checkpoint, dtype=torch.float32)
    batches = [prompts[start : start + BATCH] for start in range(0, len(prompts), BATCH)]
    answered = [answers(exact, tokenizer, batch) for batch in batches]
    gguf = Path(model.gguf)
    forms = {
        "float32": lambda: exact,
        "bfloat16": lambda: load(model.checkpoint, dtype=torch.bfloat16),
        "float16": lambda: load(model.checkpoint, dtype=torch.float16),
        "gguf": lambda: load(str(gguf.parent), gguf_file=gguf.name, dtype=torch.float32),
    }
    margins: list[dict[str, float]] = [{} for _ in prompts]
    leaves: list[dict[str, int | None]] = [{} for _ in prompts]
    for form, loading in forms.items():
        loaded = loading()
        steps = [each for batch in answered for each in step_margins(loaded, *batch, tokenizer.eos_token_id)]
        for place, of_prompt in enumerate(steps):
            margins[place][form] = round(min(of_prompt[:FIRST_TOKENS]), 3)
            leaves[place][form] = next((n for n, margin in enumerate(of_prompt) if margin < 0), None)
        print(f"{form} done", file=sys.stderr, flush=True)
    texts = [
        text
        for tokens, _mask in answered
        for text in tokenizer.batch_decode(tokens[:, -COMPARED_TOKENS:], skip_special_tokens=True)
    ]
    return [
        Finding(prompt=prompt, answer=texts[n], least_margins_nats=margins[n], leaves_at=leaves[n])
        for n, prompt in enumerate(prompts)
    ]


def load(source: str, **arguments: Any) -> Any:
    return AutoModelForCausalLM.from_pretrained(source, **arguments).eval()


def answers(model: Any, tokenizer: Any, prompts: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens of prompts and greedy answers, and which of them are padding."""
    inputs = tokenizer.apply_chat_template(
        [[{"role": "user", "content": prompt}] for prompt in prompts],
        add_generation_prompt=True,
        padding=True,
        return_tensors="pt",
        return_dict=True,
    )
    tokens = model.generate(**inputs, max_new_tokens=COMPARED_TOKENS, do_sample=False)
    rest = COMPARED_TOKENS - (tokens.shape[1] - inputs["input_ids"].shape[1])
    tokens = torch.nn.functional.pad(tokens, (0, rest), value=tokenizer.eos_token_id)
    mask = torch.nn.functional.pad(inputs["attention_mask"], (0, COMPARED_TOKENS), value=1)
    return tokens, mask


def step_margins(model: Any, tokens: torch.Tensor, mask: torch.Tensor, end_token: int) -> list[list[float]]:
    """For each token of each answer: its log-probability minus that of the best other one."""
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    with torch.inference_mode():
        logits = model(tokens, attention_mask=mask, position_ids=positions).logits
    logits = torch.log_softmax(logits[:, -COMPARED_TOKENS - 1 : -1].float(), dim=-1)
    chosen = tokens[:, -COMPARED_TOKENS:, None]
    others = logits.scatter(2, chosen, float("-inf")).max(dim=2).values
    margins = logits.gather(2, chosen)[..., 0] - others
    found = []
    for answer, of_answer in zip(chosen[..., 0].tolist(), margins.tolist(), strict=True):
        length = answer.index(end_token) + 1 if end_token in answer else len(answer)
        found.append(of_answer[:length])
    return found


def as_table(findings: list[Finding]) -> str:
    rows = [
        "| prompt | float32 | bfloat16 | float16 | GGUF | same answer | answer |",
        "|---|---|---|---|---|---|---|",
    ]
    for finding in sorted(findings, key=lambda each: (not each.sure, -each.least_margins_nats["float32"])):
        margins = " | ".join(f"{margin:.2f}" for margin in finding.least_margins_nats.values())
        answer = finding.answer.replace("\n", "⏎").replace("|", "\\|")
        rows.append(f"| {finding.prompt} | {margins} | {'yes' if finding.same else 'no'} | {answer} |")
    return "\n".join(rows)


def write(findings: list[Finding], table: str) -> None:
    machine = {
        "cpu": cpu_name(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "first_tokens": FIRST_TOKENS,
        "compared_tokens": COMPARED_TOKENS,
    }
    record = {"machine": machine, "prompts": [asdict(finding) for finding in findings]}
    (OUT / "prompts.json").write_text(json.dumps(record, ensure_ascii=False, indent=1) + "\n", "utf-8")
    (OUT / "prompts.md").write_text(f"{INTRODUCTION.format(**machine, sure=SURE_NATS)}\n{table}\n", "utf-8")


def cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


if __name__ == "__main__":
    main()
