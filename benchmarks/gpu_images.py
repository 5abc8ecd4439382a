"""One request with images to a lane of a home, by LMDyno's meter; for `gpu_vision.py` and `gpu_exam.py`."""

import asyncio
import io
from dataclasses import dataclass
from functools import partial

import numpy as np
from gpu_steps import ROOT  # noqa: F401  puts the project on the path
from PIL import Image

from core.domain.conversation import Message, Sampling, StoredImage
from core.domain.specs import LaneSpec
from core.domain.turns import RequestPlan, RequestRecord, TurnPlan, new_id
from core.engines.manager import EngineManager
from core.engines.registry import lease
from core.engines.resolve import find_endpoint
from core.engines.status import EngineWatch
from core.images.sanitise import sanitise
from core.images.store import ImageStore
from core.meter.turns import run_turn
from core.settings import Settings


@dataclass(frozen=True, slots=True)
class Site:
    """A home with engines of its own: engines of different homes load at the same time."""

    settings: Settings
    lanes: tuple[LaneSpec, ...]
    manager: EngineManager
    watch: EngineWatch

    @property
    def image_store(self) -> ImageStore:
        return ImageStore(self.settings.images_dir)

    def keep(self, image: Image.Image) -> StoredImage:
        """Take an image in, as if somebody had uploaded it."""
        buffer = io.BytesIO()
        image.save(buffer, "PNG")
        return self.image_store.put(sanitise(buffer.getvalue()))

    def noise(self, size_px: tuple[int, int], seed: int) -> StoredImage:
        """An image that no engine has seen before, so that none is taken from a cache."""
        width, height = size_px
        coarse = np.random.default_rng(seed).integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
        return self.keep(Image.fromarray(coarse).resize((width, height)))

    async def ask(self, lane: LaneSpec, messages: tuple[Message, ...], sampling: Sampling) -> RequestRecord:
        """The record of one request, failed or not."""
        plan = TurnPlan(
            conversation_id=new_id(),
            prompt=messages[-1].content,
            sampling=sampling,
            requests=(RequestPlan(lane=lane, messages=messages),),
            images=messages[-1].images,
        )
        (record,) = await run_turn(
            plan,
            resolve=partial(find_endpoint, self.settings),
            lease=partial(lease, self.settings),
            on_update=lambda _: None,
            cancel=asyncio.Event(),
            image_url=self.image_store.data_url,
        )
        return record
