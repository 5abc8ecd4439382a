"""Trains the demo vision model on drawn scenes, measures it on held-out ones, and writes what is shipped.

One H100, nine minutes and sixteen cores; drawing starts with the program, so nothing is prepared or stored:

    lmdyno models demo
    python tools/train_scenes_llava.py --text MODELS_DIR/smollm2-135m-instruct --out DIR --minutes 9

DIR gets the trained tensors (`part-*.safetensors.xz`, `architecture.json`), a record of the run with the
accuracy on held-out scenes (`training.json`), all answers (`answers.json`) and the model card (`README.md`).
From the middle of the last stage on it holds the best state so far; all is there before the minutes are over.
"""

import argparse
import json
import os
import platform
import random
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import psutil
import torch
import transformers

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from scenes.exam import EXAM_SEED, Item, exam
from scenes_llava import shipping
from scenes_llava.card import write_card
from scenes_llava.examination import accuracy, answer_all
from scenes_llava.model import ScenesLlava
from scenes_llava.recipe import TINY, Recipe
from scenes_llava.stream import drawn
from scenes_llava.training import Stage, Trainer

BEGAN_S = time.monotonic() - (time.time() - psutil.Process().create_time())
"""When the program started, loading of libraries included; by `time.monotonic`."""


def main() -> None:
    options = parsed()
    recipe = TINY if options.tiny else Recipe()
    tokenizer_file = options.text / "tokenizer.json"
    device = torch.device(options.device)
    dtype = torch.bfloat16 if device.type == "cuda" or options.bf16 else torch.float32
    deadline_s = BEGAN_S + 60 * options.minutes
    with drawn(recipe, tokenizer_file, workers=options.workers) as chunks:
        torch.manual_seed(recipe.seed)
        random.seed(recipe.seed)
        model = ScenesLlava(recipe, options.text, dtype).to(device)
        trainer = Trainer(
            model, recipe, chunks, tokenizer_file=tokenizer_file, out=options.out, device=device, say=say
        )
        trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
        say(f"{trained / 1e6:.1f} M trained parameters on {name(device)}")
        training_s = deadline_s - options.reserve_s - time.monotonic()
        stages = [
            Stage("vision", time.monotonic() + recipe.vision_share * training_s, options.most_steps),
            Stage("dialogues", deadline_s - options.reserve_s, options.most_steps),
        ]
        trainer.train_vision(stages[0])
        stages[1].began_s = time.monotonic()
        trainer.train_all(stages[1])
    items = exam(options.exam)
    record = run_record(options, recipe, device, trainer, stages)
    save(options.out, record)
    say(f"best state: {trainer.best_accuracy:.2%}; {len(items)} questions about held-out scenes")
    if trainer.best is not None:
        shipping.restore(model, trainer.best)
    answers = answer_all(
        model, trainer.prompter, items, device=device, hurry=lambda: time.monotonic() > deadline_s - 12
    )
    record["accuracy"] = accuracy(items, answers)
    record["wall_s"] = round(time.monotonic() - BEGAN_S, 1)
    save(options.out, record)
    write_card(options.out)
    save_answers(options.out, items, answers)
    for topic, row in record["accuracy"].items():
        say(f"{topic}: {row['right']} of {row['asked']} ({row['share']:.1%})")


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--text", type=Path, required=True, help="the prepared demo weights' folder")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=9.0, help="of wall time for everything")
    parser.add_argument(
        "--reserve-s", type=float, default=45.0, help="of them for the held-out set and writing"
    )
    parser.add_argument("--workers", type=int, default=max(1, (os.cpu_count() or 2) - 1))
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--exam", type=int, default=120, help="questions of each topic")
    parser.add_argument("--tiny", action="store_true", help="a small tower and batch, to try the program out")
    parser.add_argument("--bf16", action="store_true", help="compute in bfloat16 on a CPU as well")
    parser.add_argument("--most-steps", type=int, help="end each stage after so many steps")
    return parser.parse_args()


def run_record(
    options: argparse.Namespace, recipe: Recipe, device: torch.device, trainer: Trainer, stages: list[Stage]
) -> dict[str, Any]:
    return {
        "schema_version": 1,
        "model": "scenes-llava",
        "made_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "device": name(device),
        "workers": options.workers,
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "numpy": np.__version__,
            "pillow": PIL.__version__,
        },
        "recipe": asdict(recipe),
        "stages": {stage.name: stage.record() for stage in stages},
        "best_token_accuracy": round(trainer.best_accuracy, 4),
        "held_out": {"seed": EXAM_SEED, "questions_a_topic": options.exam},
        "accuracy": None,
        "wall_s": round(time.monotonic() - BEGAN_S, 1),
    }


def save(out: Path, record: dict[str, Any]) -> None:
    out.mkdir(parents=True, exist_ok=True)
    (out / "training.json").write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", "utf-8")


def save_answers(out: Path, items: list[Item], answers: list[str | None]) -> None:
    """All of them, to see what it gets wrong."""
    rows = [
        {"topic": item.topic, "question": item.question.text, "right": item.question.answers, "given": answer}
        for item, answer in zip(items, answers, strict=True)
    ]
    (out / "answers.json").write_text(json.dumps(rows, ensure_ascii=False, indent=0) + "\n", "utf-8")


def name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or "CPU"


def say(line: str) -> None:
    sys.stdout.write(f"{time.monotonic() - BEGAN_S:6.1f} s  {line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
