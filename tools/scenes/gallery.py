"""The drawn scenes of the dashboard's gallery, with questions and answers that hold.

python -m scenes.gallery DIR      (in `tools`): writes PNG files and their tables for gallery.toml
"""

import json
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from scenes.drawing import draw
from scenes.scene import Scene, Thing
from scenes.vocabulary import BACKGROUNDS, COLORS, SIZES

SIDE_PX = 480

_SIZES = {name: sum(bounds) / 2 for name, bounds in SIZES.items()}


@dataclass(frozen=True, slots=True)
class Shown:
    """A scene and what can be asked about it: question and the words of which an answer must hold one."""

    name: str
    title: str
    scene: Scene
    questions: tuple[tuple[str, tuple[str, ...]], ...]


def shape(color: str, name: str, x: float, y: float, size: str = "medium", angle: float = 0.0) -> Thing:
    radius = _SIZES[size]
    return Thing(
        shape=name,
        color=color,
        rgb=COLORS[color],
        x=x,
        y=y,
        half_width=radius,
        half_height=radius,
        angle=angle,
        size=size,
    )


def text(kind: str, written: str, color: str, x: float, y: float, half_width: float) -> Thing:
    return Thing(
        shape=kind,
        color=color,
        rgb=COLORS[color],
        x=x,
        y=y,
        half_width=half_width,
        half_height=min(0.17, half_width / len(written) * 1.9),
        angle=0.0,
        text=written,
    )


def scene(background: str, *things: Thing, dark: bool = False) -> Scene:
    rgb = BACKGROUNDS[background][1 if dark else 0]
    return Scene(
        things=things, background=background, background_rgb=rgb, gradient=0, noise=0.0, font=0, seed=0
    )


GALLERY = (
    Shown(
        "three-shapes",
        "A red circle, a blue square and a green triangle on white",
        scene(
            "white",
            shape("red", "circle", 0.18, 0.2),
            shape("blue", "square", 0.8, 0.22, "large", 6),
            shape("green", "triangle", 0.5, 0.8, "large"),
        ),
        (
            ("What color is the circle?", ("red",)),
            ("What shape is blue?", ("square",)),
            ("Where is the blue square?", ("top right",)),
            ("How many shapes are there?", ("3", "three")),
        ),
    ),
    Shown(
        "yellow-stars",
        "Four yellow stars and a white moon in a dark blue sky",
        scene(
            "blue",
            shape("yellow", "star", 0.18, 0.18, "medium", 8),
            shape("yellow", "star", 0.5, 0.32, "small", -6),
            shape("yellow", "star", 0.16, 0.8, "small", 4),
            shape("yellow", "star", 0.55, 0.8, "medium", 10),
            shape("white", "moon", 0.81, 0.22, "medium", 10),
            dark=True,
        ),
        (
            ("How many stars are there?", ("4", "four")),
            ("What color is the moon?", ("white",)),
            ("Where is the moon?", ("top right",)),
            ("Is there a heart?", ("no",)),
        ),
    ),
    Shown(
        "purple-heart",
        "One purple heart on yellow",
        scene("yellow", shape("purple", "heart", 0.5, 0.5, "large")),
        (
            ("What shape is this?", ("heart",)),
            ("What color is it?", ("purple",)),
            ("Where is it?", ("center", "middle", "centre")),
        ),
    ),
    Shown(
        "left-and-right",
        "An orange diamond on the left of a black cross, on gray",
        scene(
            "gray",
            shape("orange", "diamond", 0.2, 0.5, "large"),
            shape("black", "cross", 0.78, 0.52, "medium", 5),
        ),
        (
            ("What is to the left of the cross?", ("orange diamond",)),
            ("Is the black cross right of the diamond?", ("yes",)),
            ("What color is the cross?", ("black",)),
            ("Is there a red circle?", ("no",)),
        ),
    ),
    Shown(
        "five-circles",
        "Five circles, three of them red, on white",
        scene(
            "white",
            shape("red", "circle", 0.18, 0.2, "small"),
            shape("red", "circle", 0.8, 0.18, "medium"),
            shape("green", "circle", 0.5, 0.5, "medium"),
            shape("red", "circle", 0.2, 0.8, "medium"),
            shape("blue", "circle", 0.81, 0.8, "small"),
        ),
        (
            ("How many circles are there?", ("5", "five")),
            ("How many red circles are there?", ("3", "three")),
            ("Which color is the circle in the center?", ("green",)),
            ("How many shapes are there?", ("5", "five")),
            ("How many squares do you see?", ("0", "zero", "no", "none")),
        ),
    ),
    Shown(
        "number-seven",
        "The number 7 above a pink square and a brown triangle, on green",
        scene(
            "green",
            text("number", "7", "blue", 0.5, 0.2, 0.1),
            shape("pink", "square", 0.22, 0.78, "medium", -5),
            shape("brown", "triangle", 0.78, 0.78, "medium"),
        ),
        (
            ("What number is written?", ("7", "seven")),
            ("What color is the number?", ("blue",)),
            ("What shape is pink?", ("square",)),
            ("Where is the triangle?", ("bottom right",)),
        ),
    ),
    Shown(
        "big-and-small",
        "A large green star and a small orange moon on black",
        scene(
            "black",
            shape("green", "star", 0.28, 0.35, "large", -6),
            shape("orange", "moon", 0.8, 0.8, "small"),
        ),
        (
            ("What color is the moon?", ("orange",)),
            ("What is the biggest shape?", ("star",)),
            ("What size is the moon?", ("small",)),
            ("Where is the moon?", ("bottom right",)),
            ("What color is the background?", ("black",)),
        ),
    ),
    Shown(
        "in-a-row",
        "A red heart, a blue circle and a red diamond from top to bottom, on gray",
        scene(
            "gray",
            shape("red", "heart", 0.5, 0.18, "medium"),
            shape("blue", "circle", 0.5, 0.5, "small"),
            shape("red", "diamond", 0.5, 0.82, "medium"),
        ),
        (
            ("What is above the circle?", ("red heart",)),
            ("What is below the circle?", ("red diamond",)),
            ("How many red shapes are there?", ("2", "two")),
            ("Describe the picture.", ("blue circle",)),
        ),
    ),
)


def tables(shown: Iterable[Shown] = GALLERY) -> str:
    """The pictures' tables as `gallery.toml` has them."""
    blocks = []
    for entry in shown:
        asked = "\n".join(
            f'  {{ question = "{question}", answers = {json.dumps(words)} }},'
            for question, words in entry.questions
        )
        blocks.append(
            f'[images.{entry.name}]\ntitle = "{entry.title}"\nfile = "{entry.name}.png"\nkind = "scene"\n'
            f'licence = "Apache-2.0"\nsource = "Drawn by tools/scenes"\nquestions = [\n{asked}\n]\n'
        )
    return "\n".join(blocks)


def main() -> None:
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for entry in GALLERY:
        draw(entry.scene, SIDE_PX, SIDE_PX).save(folder / f"{entry.name}.png", optimize=True)
    (folder / "scenes.toml").write_text(tables(), "utf-8")


if __name__ == "__main__":
    main()
