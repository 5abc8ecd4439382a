"""Every number of the training run that is chosen, in one place."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    seed: int = 20261122

    image_px: int = 160
    patch_px: int = 16
    hidden: int = 320
    layers: int = 8
    heads: int = 5
    ffn: int = 1280

    rank: int = 16
    adapter_scale: float = 2.0

    scenes_a_chunk: int = 64
    """What one worker draws at a time and one step with the language model takes."""
    fresh_chunks: int = 2
    replayed_chunks: int = 6
    """New and earlier chunks in each step of the vision tower alone."""
    pool_chunks: int = 512
    """What can be replayed: the newest ones."""
    pairs_share: float = 0.1
    """Share of chunks whose dialogues are about two pictures."""
    one_picture_tokens: int = 256
    two_pictures_tokens: int = 384
    """Length of a dialogue, picture included; longer ones lose their last turns."""

    vision_share: float = 0.32
    """Of the training time, for the vision tower alone."""
    vision_rate: float = 1e-3
    tuned_vision_rate: float = 3e-4
    projector_rate: float = 1e-3
    adapter_rate: float = 1.5e-3
    weight_decay: float = 0.02
    warm_up_steps: int = 150
    patch_loss_weight: float = 0.1
    """Of the vision tower's own lessons, once the language model trains as well."""
    rehearsal_every: int = 8
    """Steps between two on plain text, which keep what the model said before it saw pictures."""
    rehearsed_prompts: int = 64
    rehearsed_tokens: int = 64

    @property
    def patches_a_side(self) -> int:
        return self.image_px // self.patch_px

    @property
    def image_tokens(self) -> int:
        return self.patches_a_side**2


TINY = Recipe(
    hidden=64,
    layers=2,
    heads=2,
    ffn=128,
    rank=4,
    scenes_a_chunk=8,
    fresh_chunks=1,
    replayed_chunks=1,
    pool_chunks=16,
    warm_up_steps=10,
    rehearsed_prompts=2,
    rehearsed_tokens=6,
)
"""For trying the program out on a CPU."""
