"""Images in a load test: which lanes can be sent them, which one each request gets, and the requests' bodies.

An engine may keep what its vision encoder made of an image, and answer sooner when the image comes again. So
each request gets a version of its own, unless the plan says otherwise. Bodies with images are made before
they are needed: megabytes of text would hold up timestamps.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from statistics import fmean

from core.bench.planning.plan import BenchPlan
from core.bench.planning.wording import with_images
from core.bench.prompts import Prompts
from core.chat_api.client import encoded
from core.domain.conversation import Message, Role, StoredImage
from core.domain.sampling import Sampling
from core.domain.specs import Endpoint, LaneSpec
from core.errors import InputError
from core.i18n import N_
from core.images.pixels import Variants
from core.images.store import data_url
from core.models.context import image_cost, not_sendable

_AHEAD_BYTES = 2**27
_AHEAD = 256

_thread = ThreadPoolExecutor(1, thread_name_prefix="bench-bodies")
"""One for all, since each body keeps Python's lock for a moment: about 1 ms a megabyte."""


def check_sendable(plan: BenchPlan) -> None:
    """Raises InputError, with the reason, for a lane that can't be sent one of the plan's images."""
    for lane in plan.lanes:
        for image in plan.workload.images:
            if problem := not_sendable(lane, (Message(Role.USER, "", (image,)),)):
                raise InputError(f"{lane.name}: {problem.message}", hint=problem.hint, code=problem.code)


def image_tokens(lane: LaneSpec, images: Sequence[StoredImage]) -> float | None:
    """Tokens of an image for the lane's model, a mean of the images; None without any, or if not known."""
    costs = [image_cost(lane, image) for image in images]
    known = [cost.tokens for cost in costs if cost]
    return fmean(known) if known and len(known) == len(costs) else None


class RequestImages:
    """The images of a plan, by the number of the request. Thread-safe."""

    def __init__(self, plan: BenchPlan, read: Callable[[StoredImage], bytes]) -> None:
        """Reads and decodes all of them; raises what `read` raises for one that is gone."""
        self.label = with_images(plan.workload)
        self._images = plan.workload.images
        self._run_id = plan.id
        self._make = [_maker(read(image), vary=plan.workload.vary_images) for image in self._images]
        self.largest_bytes = max(len(make("")) for make in self._make)

    def image(self, number: int) -> StoredImage:
        return self._images[number % len(self._images)]

    def url(self, number: int) -> str:
        """The request's own version of its image, as a data URL."""
        return data_url(self._make[number % len(self._make)](f"{self._run_id}/{number}"))


class ImagePrompts:
    """Another kind's prompts, each with an image: in the last message that the user says."""

    def __init__(self, prompts: Prompts, images: RequestImages) -> None:
        self._prompts = prompts
        self._images = images
        self.label = N_("{prompts}; {images}", prompts=prompts.label, images=images.label)
        self.body_bytes = images.largest_bytes * 4 // 3
        """Of the largest request, nearly."""

    def messages(self, number: int) -> tuple[Message, ...]:
        messages = list(self._prompts.messages(number))
        asked = [place for place, message in enumerate(messages) if message.role is Role.USER]
        place = asked[-1] if asked else len(messages) - 1
        messages[place] = replace(messages[place], images=(self._images.image(number),))
        return tuple(messages)

    def body(self, endpoint: Endpoint, sampling: Sampling, number: int) -> bytes:
        """The request as it is sent. Thread-safe; some milliseconds for a large image."""
        urls = {self._images.image(number).sha256: self._images.url(number)}
        return encoded(endpoint, self.messages(number), sampling, urls)


def _maker(data: bytes, *, vary: bool) -> Callable[[str], bytes]:
    return Variants(data).make if vary else lambda _seed: data


class Bodies:
    """The bodies of one lane's requests in one pass, in their order. Belongs to one event loop."""

    def __init__(
        self, make: Callable[[int], bytes], first: int, *, planned: int | None, body_bytes: int
    ) -> None:
        """`make` takes a prompt's number, from `first` on, and runs in a thread.

        `planned`: how many will surely be wanted, None if nobody knows. `body_bytes`: about the size of one;
        up to 128 MiB of them wait to be taken.
        """
        self._make = make
        self._next = first
        self._end = None if planned is None else first + planned
        self._ahead = max(1, min(_AHEAD, _AHEAD_BYTES // max(1, body_bytes)))
        self._waiting: deque[asyncio.Future[bytes]] = deque()

    async def ready(self) -> None:
        """Wait until as many are there as are made ahead."""
        self._make_ahead()
        await asyncio.gather(*self._waiting)

    async def take(self) -> bytes:
        """The next one; those who ask get them in the order of asking."""
        self._make_ahead()
        if not self._waiting:  # more than were planned
            self._begin()
        return await self._waiting.popleft()

    def _make_ahead(self) -> None:
        while len(self._waiting) < self._ahead and (self._end is None or self._next < self._end):
            self._begin()

    def _begin(self) -> None:
        loop = asyncio.get_running_loop()
        self._waiting.append(loop.run_in_executor(_thread, self._make, self._next))
        self._next += 1
