"""The model card, filled in from the record of the training run.

Anew for a folder that holds `training.json`, in `tools`: `python -m scenes_llava.card DIR`.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from scenes import vocabulary

_TOPICS = {
    "color": "Colour (of never drawn pairs)",
    "shape": "Shape (of never drawn pairs)",
    "position": "Position (of never drawn pairs)",
    "count": "Count, up to five",
    "yes-no": "Is there a …?",
    "relation": "What is left of …? Is it above …?",
    "size": "Size, largest and smallest",
    "background": "Colour of the background",
    "absent": "Asked for what isn't there",
    "follow-up": "Follow-up about “it”",
    "description": "Description, the whole sentence exactly",
    "number": "Number, of such as training has",
    "word": "Word, of such as training has",
    "number-unseen": "Number that training never has",
    "word-unseen": "Word that training never has",
}

_TEMPLATE = Path(__file__).with_name("card.md")


def write_card(folder: Path) -> None:
    """Write README.md beside training.json and the trained parts."""
    record = json.loads((folder / "training.json").read_text("utf-8"))
    recipe, stages, accuracy = record["recipe"], record["stages"], record["accuracy"]
    vision, dialogues = stages["vision"], stages["dialogues"]
    text = _TEMPLATE.read_text("utf-8").format(
        **{key: recipe[key] for key in ("layers", "hidden", "image_px", "patch_px", "rank", "seed")},
        size_mb=sum(path.stat().st_size for path in folder.glob("part-*.safetensors.xz")) / 1e6,
        image_tokens=(recipe["image_px"] // recipe["patch_px"]) ** 2,
        wall_min=record["wall_s"] / 60,
        device=record["device"],
        max_things=vocabulary.MAX_THINGS,
        max_word=vocabulary.MAX_WORD,
        max_digits=vocabulary.MAX_DIGITS,
        shapes=", ".join(vocabulary.SHAPES),
        colors=", ".join(vocabulary.COLOR_NAMES),
        vision_scenes=vision["scenes"],
        vision_steps=vision["steps"],
        vision_s=vision["seconds"],
        dialogue_scenes=dialogues["scenes"],
        dialogue_steps=dialogues["steps"],
        dialogue_s=dialogues["seconds"],
        asked=sum(row["asked"] for row in accuracy.values()),
        table="\n".join(_table(accuracy)),
        word=accuracy["word"]["share"],
        word_unseen=accuracy["word-unseen"]["share"],
    )
    (folder / "README.md").write_text(text, "utf-8")


def _table(accuracy: dict[str, Any]) -> Iterator[str]:
    yield "| Question | Right | of | Share |"
    yield "| --- | ---: | ---: | --- |"
    for topic, title in _TOPICS.items():
        row = accuracy[topic]
        low, high = row["interval_95"]
        yield f"| {title} | {row['right']} | {row['asked']} | {row['share']:.1%} [{low:.1%}, {high:.1%}] |"


if __name__ == "__main__":
    write_card(Path(sys.argv[1]))
