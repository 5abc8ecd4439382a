"""How much of a model's answers W4A16 keeps, by calibration text, scale search and rounding.

    python benchmarks/gpu_awq.py --out FILE.json [--only NAME,…] [--limit-s 330] [--model FOLDER]

Each variant is made from the same weights (the demo's), scored on the same text, and written down at once.
The score is in nats per token of the model's own answers to held-out prompts; the prompts themselves don't
count. Greedy answers to the example prompts stand beside it. Variants called `lmdeploy` go through LMDeploy's
calibration, smoothing, and rounding; those called `ours` compute in float32 (`awq_variants.py`). The steps
`product` and `served` quantise as `models demo` does and score the result in TurboMind.

`--tiny` shows on a machine without a GPU that the program runs.
"""

import contextlib
import gc
import json
import math
import os
import subprocess
import sys
import time
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from awq_variants import Ours, lmdeploy, ours
from gpu_steps import ROOT, Steps, tell
from transformers import AutoModelForCausalLM, AutoTokenizer

from core.domain.specs import ModelSpec
from core.jobs.registry import Jobs
from core.models.awq.options import Conversation, python_docs, sample_starts
from core.models.awq.worker import as_jsonl, own_answers
from core.models.demo_models import prepare_text
from core.models.job import DEMO_OPTIONS, quantize
from core.quality.plan import PROMPTS
from core.settings import load_settings

EXAMPLES = (
    "What is the chemical symbol for water?",
    "What is the boiling point of water in Celsius?",
    "Explain what a GPU is.",
    "What is the capital of Japan?",
    "What is the first month of the year?",
    "What is the capital of France?",
)
HELD_OUT_TOKENS = 7_000
ANSWER_TOKENS = 24

JOINT = 10_000
"""A batch of all samples: one scale search for all."""


class Experiment:
    def __init__(self, steps: Steps, model: Path | None, *, tiny: bool) -> None:
        self._steps = steps
        self._folder = model
        self._tiny = tiny
        self._settings = load_settings()
        self._device = "cpu" if tiny else "cuda"
        self._calibration: dict[str, list[int]] = {}
        self._held_out: list[tuple[list[int], int]] = []
        self.table: list[tuple[str, float, float]] = []

    # Texts

    def texts(self) -> dict[str, Any]:
        """Python's documentation, the model's own answers to calibrate on, and those to score on."""
        if self._folder:
            self._model = ModelSpec(name=self._folder.name, checkpoint=str(self._folder))
        else:
            self._model = prepare_text(self._settings, lambda stage, *_: tell(str(stage)))
        self._source = Path(self._model.checkpoint)
        self._tokenizer = AutoTokenizer.from_pretrained(self._source)
        docs = "".join(str(document) for document in python_docs().documents)
        docs = docs[: 20_000 if self._tiny else None]
        self._calibration["docs"] = self._ids(docs)
        self._settings.home.mkdir(parents=True, exist_ok=True)
        facts: dict[str, Any] = {}
        for name, tokens, prompts in (
            ("own", 80 if self._tiny else 68_000, None),
            ("held-out", 60 if self._tiny else HELD_OUT_TOKENS, PROMPTS),
        ):
            began = time.monotonic()
            text = own_answers(
                self._source,
                tokens=tokens,
                device=self._device,
                dtype="float32" if self._tiny else "float16",
                report=lambda stage, *_: tell(str(stage)),
                **({"prompts": prompts} if prompts else {}),
                **({"answer_tokens": 8} if self._tiny else {}),
            )
            documents = list(text.documents)
            if name == "own":
                self._answers_file = self._settings.home / "awq-own-answers.jsonl"
                self._answers_file.write_text(as_jsonl(documents), "utf-8")
                self._calibration["own"] = [
                    token for document in documents for token in self._ids(self._formatted(document))
                ]
            else:
                self._held_out = [self._scored(document) for document in documents]
            facts[name] = {
                "documents": len(documents),
                "sha256": text.sha256,
                "wall_s": round(time.monotonic() - began, 1),
                "examples": [str(document[-1])[:300] for document in documents[:3]],
            }
        facts["scored_tokens"] = sum(len(ids) - given for ids, given in self._held_out)
        return facts

    def _ids(self, text: str) -> list[int]:
        return self._tokenizer(text, add_special_tokens=False, verbose=False).input_ids

    def _formatted(self, document: Conversation, **options: Any) -> str:
        return self._tokenizer.apply_chat_template(document, tokenize=False, **options)

    def _scored(self, document: Conversation) -> tuple[list[int], int]:
        prompt = self._ids(self._formatted(document[:1], add_generation_prompt=True))
        whole = self._ids(self._formatted(document))
        return whole, len(prompt)

    def samples(self, text: str, samples: int, seqlen: int) -> torch.Tensor:
        ids = self._calibration[text]
        if self._tiny:
            samples, seqlen = 2, 24
        starts = sample_starts(len(ids), samples, seqlen)
        return torch.tensor([ids[start : start + seqlen] for start in starts])

    # Variants

    def reference(self, dtype: str) -> dict[str, Any]:
        return self._figures(f"16 bits ({dtype})", self._load(dtype), 0.0)

    def by_lmdeploy(
        self, text: str, samples: int, seqlen: int, *, search: bool, batch: int
    ) -> dict[str, Any]:
        ids = self.samples(text, samples, seqlen)
        began = time.monotonic()
        model = lmdeploy(self._source, ids, device=self._device, search=search, batch=batch)
        return self._figures(
            f"lmdeploy {text} {samples}x{seqlen}" + (f" search/{batch}" if search else ""),
            model,
            time.monotonic() - began,
        )

    def by_us(self, text: str, samples: int, seqlen: int, way: Ours) -> dict[str, Any]:
        ids = self.samples(text, samples, seqlen)
        model = self._load("float32")
        began = time.monotonic()
        ratios = ours(model, ids, way)
        name = f"ours {text} {samples}x{seqlen} {way.rounding}"
        name += (" sequential" if way.sequential else "") + ("" if way.scales else " unscaled")
        figures = self._figures(
            name, model.to(torch.float32 if self._tiny else torch.float16), time.monotonic() - began
        )
        return {**figures, "way": asdict(way), "ratios": ratios}

    def _load(self, dtype: str) -> Any:
        gc.collect()
        if self._device == "cuda":
            torch.cuda.empty_cache()
        model = AutoModelForCausalLM.from_pretrained(self._source, dtype=getattr(torch, dtype))
        return model.to(self._device).eval()

    def _figures(self, name: str, model: Any, made_s: float) -> dict[str, Any]:
        nats = self._nats(model)
        self.table.append((name, nats, made_s))
        tell(f"{name}: {nats:.4f} nats per token, made in {made_s:.1f} s")
        return {
            "name": name,
            "nats_per_token": nats,
            "perplexity": math.exp(nats),
            "made_s": round(made_s, 1),
            "answers": {prompt: self._answer(model, prompt) for prompt in EXAMPLES},
        }

    @torch.inference_mode()
    def _nats(self, model: Any) -> float:
        total, tokens = 0.0, 0
        for ids, given in self._held_out:
            logits = model(torch.tensor([ids], device=model.device)).logits[0, given - 1 : -1].float()
            targets = torch.tensor(ids[given:], device=model.device)
            total += torch.nn.functional.cross_entropy(logits, targets, reduction="sum").item()
            tokens += len(targets)
        return total / tokens

    @torch.inference_mode()
    def _answer(self, model: Any, prompt: str) -> str:
        ids = self._ids(self._formatted([{"role": "user", "content": prompt}], add_generation_prompt=True))
        limit = 4 if self._tiny else ANSWER_TOKENS
        given = torch.tensor([ids], device=model.device)
        output = model.generate(given, max_new_tokens=limit, do_sample=False, pad_token_id=0, use_cache=True)
        return self._tokenizer.decode(output[0, len(ids) :], skip_special_tokens=True)

    # The demo's own way, served

    def product(self) -> dict[str, Any]:
        """The job behind `models demo`, on the answers that are there."""
        options = replace(DEMO_OPTIONS, calibration=str(self._answers_file), out=str(self._result()))
        if self._tiny:
            options = replace(options, device="cpu", samples=2, seqlen=24)
        jobs = Jobs(self._settings)
        status = jobs.wait(quantize(self._settings, self._model, options), self._steps.left_s)
        if not status.state.ended:
            jobs.cancel(status.id)
        if status.record.error:
            raise RuntimeError(f"{status.record.error.message} {jobs.log_tail(status.id, 20)}")
        return {"elapsed_s": status.elapsed_s, "result": status.record.result}

    def _result(self) -> Path:
        return self._settings.models_dir / f"{self._model.name}-gpu-awq"

    def served(self, folder: str | None = None) -> dict[str, Any]:
        """Scores and answers of a folder in TurboMind, in a process of its own."""
        path = folder or str(self._result())
        work = self._settings.home / "gpu-awq"
        work.mkdir(parents=True, exist_ok=True)
        request, result = work / "request.json", work / "result.json"
        config = {
            "dtype": "float16",
            "session_len": 2048,
            "max_batch_size": 4,
            "cache_max_entry_count": 0.1,
            **({} if folder else {"model_format": "awq"}),
        }
        scoring = {"engine": "lmdeploy-turbomind", "path": path, "engine_config": config, "device": "cuda"}
        request.write_text(json.dumps({**scoring, "texts": [self._held_out]}))
        self._child([sys.executable, "-m", "core.quality.engine_child", str(request), str(result)])
        scores = json.loads(result.read_text())["texts"][0]
        nats = sum(score["nll_nats"] for score in scores) / sum(score["tokens"] for score in scores)
        name = f"TurboMind {'16 bits' if folder else 'W4A16, as models demo makes it'}"
        self.table.append((name, nats, 0.0))
        tell(f"{name}: {nats:.4f} nats per token")
        asked = self._child([sys.executable, __file__, "--ask", path, json.dumps(config)])
        return {"nats_per_token": nats, "answers": json.loads(asked.splitlines()[-1])}

    def _child(self, command: list[str]) -> str:
        done = subprocess.run(
            command,
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=max(20.0, self._steps.left_s),
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"{command[2]}: {done.stderr[-1500:]}")
        return done.stdout


def ask(path: str, config: dict[str, Any]) -> None:
    """TurboMind's greedy answers to the example prompts, as a line of JSON."""
    from lmdeploy import GenerationConfig, TurbomindEngineConfig, pipeline

    with pipeline(path, backend_config=TurbomindEngineConfig(**config)) as pipe:
        greedy = GenerationConfig(do_sample=False, top_k=1, max_new_tokens=ANSWER_TOKENS)
        answers = [pipe(prompt, gen_config=greedy).text for prompt in EXAMPLES]
    print(f"\n{json.dumps(dict(zip(EXAMPLES, answers, strict=True)), ensure_ascii=False)}", flush=True)


def variants(run: Experiment) -> dict[str, tuple[float, Callable[[], Any]]]:
    """Every step after the texts: what it needs, and its work; the most telling first."""
    joint = {"search": True, "batch": JOINT}
    return {
        "float16": (5, lambda: run.reference("float16")),
        "docs": (25, lambda: run.by_lmdeploy("docs", 32, 1024, search=False, batch=1)),
        "own": (25, lambda: run.by_lmdeploy("own", 64, 512, search=False, batch=1)),
        "own-joint": (30, lambda: run.by_lmdeploy("own", 64, 512, **joint)),
        "compensated": (30, lambda: run.by_us("own", 64, 512, Ours("compensated", sequential=True))),
        "ranges": (25, lambda: run.by_us("own", 64, 512, Ours("ranges"))),
        "product": (60, run.product),
        "served": (45, run.served),
        "nearest": (20, lambda: run.by_us("own", 64, 512, Ours())),
        "nearest-sequential": (20, lambda: run.by_us("own", 64, 512, Ours(sequential=True))),
        "own-joint-more": (35, lambda: run.by_lmdeploy("own", 128, 512, **joint)),
        "own-joint-long": (35, lambda: run.by_lmdeploy("own", 32, 2048, **joint)),
        "ranges-sequential": (25, lambda: run.by_us("own", 64, 512, Ours("ranges", sequential=True))),
        "compensated-unscaled": (
            25,
            lambda: run.by_us("own", 64, 512, Ours("compensated", sequential=True, scales=False)),
        ),
        "compensated-more": (45, lambda: run.by_us("own", 128, 512, Ours("compensated", sequential=True))),
        "own-search": (70, lambda: run.by_lmdeploy("own", 64, 512, search=True, batch=1)),
        "served-16-bits": (45, lambda: run.served(str(run._source))),
        "float32": (5, lambda: run.reference("float32")),
    }


def main() -> None:
    if sys.argv[1:2] == ["--ask"]:
        ask(sys.argv[2], json.loads(sys.argv[3]))
        return
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    default = Path(os.environ["OUT"], "awq.json") if "OUT" in os.environ else None
    parser.add_argument("--out", type=Path, default=default, required=default is None)
    parser.add_argument("--model", type=Path, help="a Llama checkpoint's folder; default is the demo weights")
    parser.add_argument("--only", help="names of variants, separated by commas")
    parser.add_argument("--limit-s", type=float, default=330.0, help="no step is begun that would go beyond")
    parser.add_argument("--tiny", action="store_true", help="only shows that the program runs, without a GPU")
    options = parser.parse_args()
    steps = Steps(options.out.resolve(), options.limit_s)
    run = Experiment(steps, options.model, tiny=options.tiny)
    if not steps.run("texts", run.texts):
        sys.exit(1)
    for name, (needs_s, work) in variants(run).items():
        if options.only is None or name in options.only.split(","):
            steps.run(name, work, needs_s=0.0 if options.tiny else needs_s)
    base = next((nats for name, nats, _ in run.table if name.startswith("16 bits")), math.nan)
    print(f"\n{'variant':44} {'nats/token':>10} {'lost':>8} {'made in':>8}")
    for name, nats, made_s in sorted(run.table, key=lambda row: row[1]):
        print(f"{name:44} {nats:10.4f} {nats - base:+8.4f} {made_s:6.1f} s")


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main()
