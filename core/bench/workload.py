"""From a workload to what each request asks: messages of the wanted length, and images.

A prompt is known by its number: the lanes of a comparison get the same prompts, and with synthetic ones no
two requests of any run begin alike, so that no prefix cache helps. Files and examples are sent as they are.

Prompts have a fixed length by the best count of tokens that there is for a lane. Best is the lane's own
tokenizer. Where that is not on this machine, two short requests tell how many tokens the server makes of a
word; and if it doesn't count, words have to do. Which it was, the prompts' label says.

An engine may keep what its vision encoder made of an image, and answer sooner when the image comes again.
So each request gets a version of its own, unless the plan says otherwise. Bodies with images are made
before they are needed: megabytes of text would hold up timestamps.
"""

import asyncio
import random
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Protocol

from core import i18n
from core.bench.passes import with_images
from core.bench.plan import BenchPlan, PromptKind, Workload
from core.bench.prompt_files import prompt_kind, read_prompts
from core.chat_api.answer import Answer
from core.chat_api.client import Session, Timeouts, encoded, send
from core.domain.conversation import EXAMPLES, Message, Role, Sampling, StoredImage
from core.domain.specs import Endpoint, LaneSpec
from core.errors import InputError, LMDynoError
from core.files import keep_upload, upload_path
from core.i18n import N_, N_plural, Text
from core.images.sanitise import Variants
from core.images.store import data_url
from core.models.checkpoint import checkpoint_folder
from core.models.context import LaneTokenizer, image_cost, not_sendable
from core.settings import Settings

_COMMON = """
able about above after again air all also always animal answer any area arm art ask away baby back bad
ball bank base bear beat bed before begin best better big bird black blue board boat body book both box
boy break bring brother build busy buy call came can car care carry case cat catch cause center chair
change check child city class clean clear close cold color come common cook cool copy corner cost country
course cover cross cry cup cut dark day deep desk did dinner do dog door down draw dream dress drink drive
dry duck each early earth east easy eat edge egg eight end enough even ever every eye face fact fall
family far farm fast father feel feet few field fight fill film find fine fire first fish five floor fly
follow food foot for force form four free fresh friend from front full game garden gave get girl give
glass go gold good grass gray great green ground group grow hair half hall hand happy hard hat have he
head hear heart heat heavy help her here high hill
"""
COMMON_WORDS = tuple(_COMMON.split())
"""One token each for nearly every tokenizer; for lanes whose own tokenizer is not here."""

_PREFIX_WORDS = 8
_BODIES = 64


class Prompts(Protocol):
    """The prompts of one lane. Making one must be quick: it happens while others are being measured."""

    @property
    def label(self) -> Text:
        """How they were made and their length counted, in words."""

    def messages(self, number: int) -> tuple[Message, ...]:
        """Return what the request with this number is sent; numbers may be any."""


class SyntheticPrompts:
    """Words drawn at random: a beginning that is unique to run and number, then one of a few bodies."""

    def __init__(self, words: Sequence[str], length: int, *, label: Text, seed: int, run_id: str) -> None:
        """`length` counts words."""
        self.label = label
        self._words = words
        self._run_id = run_id
        self._prefix = min(_PREFIX_WORDS, length)
        source = random.Random(seed)
        self._bodies = [" ".join(source.choices(words, k=length - self._prefix)) for _ in range(_BODIES)]

    def messages(self, number: int) -> tuple[Message, ...]:
        source = random.Random(f"{self._run_id}/{number}")
        beginning = " ".join(source.choices(self._words, k=self._prefix))
        return (Message(Role.USER, f"{beginning} {self._bodies[number % _BODIES]}".rstrip()),)


class ListedPrompts:
    """Given prompts in their order, from the start again after the last."""

    def __init__(
        self, prompts: Sequence[tuple[Message, ...]], name: str, remarks: Sequence[Text] = ()
    ) -> None:
        """`remarks` tell what was left out."""
        self.label: Text = N_plural(
            "{n} prompt from {source}", "{n} prompts from {source}, in order", len(prompts), source=name
        )
        for remark in remarks:
            self.label = N_("{prompts}; {remark}", prompts=self.label, remark=remark)
        self._prompts = prompts

    def messages(self, number: int) -> tuple[Message, ...]:
        return self._prompts[number % len(self._prompts)]


def listed_prompts(workload: Workload) -> ListedPrompts | None:
    """The examples or the prompts of a file; None for synthetic ones, which need a lane's tokenizer.

    Raises InputError: `prompt-file` for one that is missing, too large, empty, or of another form.
    """
    if workload.prompts is PromptKind.EXAMPLES:
        return ListedPrompts([_asked(text) for text in EXAMPLES.values()], N_("the examples"))
    if workload.path is None:
        return None
    path = Path(workload.path).expanduser()
    listed = read_prompts(workload.prompts, path)
    return ListedPrompts(listed.prompts, path.name, listed.remarks())


def words_for(tokens: int, short: tuple[int, int | None], long: tuple[int, int | None]) -> int | None:
    """Return how many common words make `tokens` tokens, from two prompts' (words, tokens by the server).

    The difference of the two leaves out what the chat template adds. None if the server does not count, or
    counts in a way that does not follow the length.
    """
    if short[1] is None or long[1] is None or long[1] <= short[1]:
        return None
    tokens_per_word = (long[1] - short[1]) / (long[0] - short[0])
    return max(1, round(tokens / tokens_per_word))


def _asked(text: str) -> tuple[Message, ...]:
    return (Message(Role.USER, text),)


def keep_prompt_file(settings: Settings, name: str, data: bytes) -> Workload:
    """Keep a prompt file and return a workload that names it; the same bytes are kept once.

    Raises InputError (`prompt-file`), and keeps nothing, for a file that holds no prompts.
    """
    folder = settings.home / "prompts"
    place = upload_path(folder, name, data, nameless="prompts.txt")
    kind, is_new = prompt_kind(place.name), not place.exists()
    path = keep_upload(folder, name, data, nameless="prompts.txt")
    workload = Workload(prompts=kind, path=str(path))
    try:
        listed_prompts(workload)
    except InputError as error:
        if is_new:
            path.unlink()
        # The person knows the file by its own name, not by where it was to be kept.
        message = error.message
        if isinstance(message, i18n.Message):
            message = message.filled(path=name)
        raise InputError(message, hint=error.hint, code=error.code) from error
    return workload


_PROBE_WORDS = (8, 136)
_RETRY_S = 0.5


class PromptMaker:
    """Makes prompts for the lanes of one run. Belongs to one event loop."""

    def __init__(self, plan: BenchPlan, session: Session, timeouts: Timeouts) -> None:
        """Reads the prompt file, if there is one; raises InputError."""
        self._plan = plan
        self._session = session
        self._timeouts = timeouts
        self._listed = listed_prompts(plan.workload)
        self._words: dict[Path, tuple[str, ...]] = {}

    async def prompts_for(self, lane: LaneSpec, endpoint: Endpoint) -> Prompts:
        """The lane's prompts; those that are synthetic may take a second and two requests to make."""
        if self._listed is not None:
            return self._listed
        tokens = self._plan.workload.prompt_tokens
        if words := await self._own_words(lane):
            label = N_("{n} tokens by the lane's tokenizer, each with a different start", n=tokens)
            return self._synthetic(words, tokens, label)
        length, problem = await self._calibrated(endpoint, tokens)
        if length:
            label = N_(
                "{words} words ({n} tokens as counted by the server), each with a different start",
                words=length,
                n=tokens,
            )
            return self._synthetic(COMMON_WORDS, length, label)
        label = N_(
            "{words} words, each with a different start (no tokenizer is available, and {problem})",
            words=tokens,
            problem=problem or N_("the server doesn't count tokens"),
        )
        return self._synthetic(COMMON_WORDS, tokens, label)

    def _synthetic(self, words: Sequence[str], length: int, label: Text) -> SyntheticPrompts:
        return SyntheticPrompts(
            words,
            length,
            label=label,
            seed=self._plan.seed,
            run_id=self._plan.id,
        )

    async def _own_words(self, lane: LaneSpec) -> tuple[str, ...]:
        """Words of the lane's tokenizer that are one token each; none if it is not on this machine."""
        named = lane.endpoint.tokenizer if lane.endpoint else None
        if lane.model is None and named is None:
            return ()
        try:
            folder = checkpoint_folder(lane.model.checkpoint) if lane.model else Path(named or "")
            if folder not in self._words:
                self._words[folder] = await asyncio.to_thread(_plain_words, folder)
        except InputError:
            return ()
        return self._words[folder]

    async def _calibrated(self, endpoint: Endpoint, tokens: int) -> tuple[int | None, Text | None]:
        """Return how many common words make as many tokens by the server's count; None if that can't be told,
        and why if the requests failed.
        """
        problem: Text | None = None
        for wait_s in (0.0, _RETRY_S):
            await asyncio.sleep(wait_s)
            try:
                short, long = [(words, await self._counted(endpoint, words)) for words in _PROBE_WORDS]
            except LMDynoError as error:
                problem = N_("counting by the server failed: {problem}", problem=error.message)
            else:
                return words_for(tokens, short, long), None
        return None, problem

    async def _counted(self, endpoint: Endpoint, words: int) -> int | None:
        prompt = SyntheticPrompts(
            COMMON_WORDS, words, label="", seed=self._plan.seed, run_id=f"{self._plan.id}/calibration"
        )
        answer = Answer(endpoint.dialect)
        await send(
            self._session, endpoint, prompt.messages(words), Sampling(max_tokens=1), answer, self._timeouts
        )
        return answer.prompt_tokens


def _plain_words(folder: Path) -> tuple[str, ...]:
    return LaneTokenizer(folder).plain_words()


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
