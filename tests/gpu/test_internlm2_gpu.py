"""TurboMind loads InternLM2's own layout and the converted one, and transformers agrees with both.

The original gets the converted tokenizer's files, since its own needs remote code; its weights stay.
"""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from core.models import internlm2
from core.settings import load_settings

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(500)]

SIZES = {
    "hidden_size": 512,
    "intermediate_size": 1024,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-5,
    "rope_theta": 1_000_000,
}
PROMPTS = [
    "The capital of France is",
    "def f(x): return",
    "法国的首都是",
    "What is the capital of the country",
]
TOKENS = 24

TURBOMIND = """
import json, sys
from lmdeploy import GenerationConfig, TurbomindEngineConfig, pipeline
if __name__ == "__main__":
    engine = TurbomindEngineConfig(
        dtype="float16", session_len=512, max_batch_size=4, cache_max_entry_count=0.05
    )
    with pipeline(sys.argv[1], backend_config=engine) as pipe:
        assert type(pipe.async_engine.engine).__name__ == "TurboMind", pipe.async_engine.engine
        sampling = GenerationConfig(max_new_tokens=int(sys.argv[2]), do_sample=False, ignore_eos=True)
        answers = [pipe(p, gen_config=sampling, do_preprocess=False) for p in json.loads(sys.argv[3])]
    print(json.dumps([answer.token_ids for answer in answers]))
"""
TRANSFORMERS = """
import json, sys, torch
from transformers import AutoModelForCausalLM, AutoTokenizer
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
model = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.float32).cuda()
shortfalls = []
for prompt, answer in json.loads(sys.argv[3]):
    ids = tokenizer(prompt, return_tensors="pt").input_ids.cuda()
    whole = torch.cat([ids, torch.tensor([answer]).cuda()], dim=1)
    logits = model(whole).logits[0, ids.shape[1] - 1 : -1]
    chosen = logits[torch.arange(len(answer)), torch.tensor(answer)]
    shortfalls.append(((logits.max(-1).values - chosen) / logits.std(-1)).tolist())
print(json.dumps(shortfalls))
"""
"""For each token that TurboMind chose: how far its logit is below the highest, in standard deviations."""
ROUNDING = 0.05
"""What half precision may move a logit by, in standard deviations; 0 is the same greedy token."""


def ask(program: str, folder: Path, questions: object) -> list[list]:
    done = subprocess.run(
        [sys.executable, "-c", program, str(folder), str(TOKENS), json.dumps(questions)],
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_all_three_agree(tmp_path, monkeypatch):
    from tests.engines import internlm2_checkpoint

    monkeypatch.setattr(internlm2_checkpoint, "SIZES", SIZES)
    original = tmp_path / "internlm2-original"
    internlm2_checkpoint.write(original)
    settings = replace(load_settings({}), home=tmp_path / "home")
    converted = Path(internlm2.convert(settings, original, report=lambda line: None).checkpoint)

    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        if (converted / name).exists():
            shutil.copy(converted / name, original)
    (original / "tokenizer.model").unlink()
    (original / "modeling_internlm2.py").unlink()
    config = json.loads((original / "config.json").read_text())
    del config["auto_map"]
    (original / "config.json").write_text(json.dumps(config | {"torch_dtype": "float16"}))

    answers = ask(TURBOMIND, converted, PROMPTS)
    assert all(len(answer) == TOKENS for answer in answers)
    assert ask(TURBOMIND, original, PROMPTS) == answers

    shortfalls = ask(TRANSFORMERS, converted, list(zip(PROMPTS, answers, strict=True)))
    every = [shortfall for answer in shortfalls for shortfall in answer]
    assert max(every) < ROUNDING
    assert sum(shortfall == 0 for shortfall in every) >= 0.95 * len(every)
