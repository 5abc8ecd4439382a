"""The vision tower's own lessons: read off each patch what `scenes.targets` says of it."""

import torch
import torch.nn.functional as F
from scenes.targets import SCENE_FIELDS, THING_FIELDS
from scenes.vocabulary import GLYPHS
from torch import Tensor, nn

_KNOWING_PATCHES = 6
"""How many patches of each picture are asked for the whole scene's facts in a step."""
_GLYPH_WEIGHT = 1.5
_COMMON = ("form", "color", "place")


class PatchHeads(nn.Module):
    """One linear layer for each group of facts; used in training alone."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.thing = nn.Linear(hidden, sum(THING_FIELDS.values()))
        self.scene = nn.Linear(hidden, sum(SCENE_FIELDS.values()))
        self.glyph = nn.Linear(hidden, len(GLYPHS) + 1)
        self.covered = nn.Linear(hidden, 1)

    def forward(self, features: Tensor, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss, and how often "form", "color", … were read off rightly."""
        features = features.float()
        thing, glyph = batch["thing"].long(), batch["glyph"].long()
        covers = thing > 0
        covered = F.binary_cross_entropy_with_logits(self.covered(features)[..., 0], covers.float())
        rows = torch.arange(len(thing), device=thing.device)[:, None].expand_as(thing)
        facts = batch["facts"][rows[covers], thing[covers]].long()
        things, hits = _fields(self.thing(features[covers]), facts, THING_FIELDS)

        picked = torch.randint(features.shape[1], (_KNOWING_PATCHES,), device=features.device)
        known = batch["scene"].long()[:, None].expand(-1, _KNOWING_PATCHES, -1)
        scenes, scene_hits = _fields(
            self.scene(features[:, picked]).flatten(0, 1), known.flatten(0, 1), SCENE_FIELDS
        )
        on_text = glyph > 0
        glyphs = self.glyph(features[on_text])
        read = F.cross_entropy(glyphs, glyph[on_text]) if on_text.any() else features.sum() * 0
        hits = {**hits, **scene_hits, "glyph": (glyphs.argmax(-1) == glyph[on_text]).float().mean()}
        return covered + things + scenes + _GLYPH_WEIGHT * read, hits


def _fields(logits: Tensor, facts: Tensor, sizes: dict[str, int]) -> tuple[Tensor, dict[str, Tensor]]:
    """Cross entropy summed over the fields. Slots for letters count only where there is text."""
    total = logits.sum() * 0
    hits: dict[str, Tensor] = {}
    at = 0
    is_text = facts[:, list(sizes).index("glyph0")] > 0 if "glyph0" in sizes else None
    for number, (name, size) in enumerate(sizes.items()):
        part, wanted = logits[:, at : at + size], facts[:, number]
        at += size
        if name.startswith("glyph") and is_text is not None:
            part, wanted = part[is_text], wanted[is_text]
            if not len(part):
                continue
        weight = 1.0 if name in _COMMON or name.startswith(("same", "glyph", "shapes")) else 0.5
        total = total + weight * F.cross_entropy(part, wanted)
        hits[name] = (part.argmax(-1) == wanted).float().mean()
    return total, hits
