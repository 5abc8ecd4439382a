"""Pictures in a load test: which lanes can be sent them, and which one each request gets.

An engine may keep what its vision encoder made of a picture, and answer sooner when the picture comes again.
So each request gets a version of its own, unless the plan says otherwise.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from statistics import fmean

from core.bench.planning.plan import BenchPlan
from core.bench.planning.wording import with_pictures
from core.bench.workload.prompts import Prompts
from core.domain.conversation import Message, Role
from core.domain.pictures import Picture
from core.domain.sampling import Sampling
from core.domain.specs import Endpoint, LaneSpec
from core.errors import InputError
from core.meter.client import encoded
from core.models.vision.context import not_sendable, picture_cost
from core.pictures.shelf import data_url
from core.pictures.variants import Variants


def check_sendable(plan: BenchPlan) -> None:
    """Raises InputError, with the reason, for a lane that can't be sent one of the plan's pictures."""
    for lane in plan.lanes:
        for picture in plan.workload.pictures:
            if problem := not_sendable(lane, (Message(Role.USER, "", (picture,)),)):
                raise InputError(f"{lane.name}: {problem.message}", hint=problem.hint, code=problem.code)


def picture_tokens(lane: LaneSpec, pictures: Sequence[Picture]) -> float | None:
    """Tokens of a picture for the lane's model, a mean of the pictures; None without any, or if not known."""
    costs = [picture_cost(lane, picture) for picture in pictures]
    known = [cost.tokens for cost in costs if cost]
    return fmean(known) if known and len(known) == len(costs) else None


class RequestPictures:
    """The pictures of a plan, by the number of the request. Thread-safe."""

    def __init__(self, plan: BenchPlan, read: Callable[[Picture], bytes]) -> None:
        """Reads and decodes all of them; raises what `read` raises for one that is gone."""
        self.label = with_pictures(plan.workload)
        self._pictures = plan.workload.pictures
        self._run_id = plan.id
        self._make = [_maker(read(picture), vary=plan.workload.vary_pictures) for picture in self._pictures]
        self.largest_bytes = max(len(make("")) for make in self._make)

    def picture(self, number: int) -> Picture:
        return self._pictures[number % len(self._pictures)]

    def url(self, number: int) -> str:
        """The request's own version of its picture, as a data URL."""
        return data_url(self._make[number % len(self._make)](f"{self._run_id}/{number}"))


class PicturePrompts:
    """Another kind's prompts, each with a picture: in the last message that the user says."""

    def __init__(self, prompts: Prompts, pictures: RequestPictures) -> None:
        self._prompts = prompts
        self._pictures = pictures
        self.label = f"{prompts.label}; {pictures.label}"
        self.body_bytes = pictures.largest_bytes * 4 // 3
        """Of the largest request, nearly."""

    def messages(self, number: int) -> tuple[Message, ...]:
        messages = list(self._prompts.messages(number))
        asked = [place for place, message in enumerate(messages) if message.role is Role.USER]
        place = asked[-1] if asked else len(messages) - 1
        messages[place] = replace(messages[place], pictures=(self._pictures.picture(number),))
        return tuple(messages)

    def body(self, endpoint: Endpoint, sampling: Sampling, number: int) -> bytes:
        """The request as it is sent. Thread-safe; some milliseconds for a large picture."""
        urls = {self._pictures.picture(number).sha256: self._pictures.url(number)}
        return encoded(endpoint, self.messages(number), sampling, urls)


def _maker(data: bytes, *, vary: bool) -> Callable[[str], bytes]:
    return Variants(data).make if vary else lambda _seed: data
