"""What a request has told so far, kept for followers that come late or come again."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from core.domain.turns import Phase, RequestRecord
from core.meter.protocol import Update

_SHORT_CHARS = 16_384
_GROWTH = 1.25


@dataclass(eq=False, slots=True)
class Feed:
    """The news of one request, for any number of followers. Belongs to one event loop."""

    request_id: str
    phase: Phase = Phase.QUEUED
    place: int | None = None
    content: list[str] = field(default_factory=list)
    reasoning: list[str] = field(default_factory=list)
    record: RequestRecord | None = None
    unsaved: bool = False
    chars: int = 0
    """Length of the text so far."""
    saved_chars: int = 0
    """Of which the store has been given."""
    followers: set[asyncio.Event] = field(default_factory=set)

    def take(self, update: Update) -> None:
        self.phase, self.place, self.record = update.phase, update.place, update.record
        self.content.append(update.content)
        self.reasoning.append(update.reasoning)
        self.unsaved = True
        self.chars += len(update.content) + len(update.reasoning)
        for follower in self.followers:
            follower.set()

    @property
    def is_worth_saving(self) -> bool:
        """Whether there is news that the store should have now.

        A store is given the whole text each time. A long one waits until it has grown by a part of itself, so
        that all that is ever written grows with the text and not with its square.
        """
        return self.unsaved and (self.chars < _SHORT_CHARS or self.chars >= self.saved_chars * _GROWTH)

    def saved(self) -> None:
        """Mark everything so far as saved."""
        self.unsaved = False
        self.saved_chars = self.chars

    def since(self, seen: int) -> Update:
        """All that was told after the first `seen` updates, as one."""
        return Update(
            request_id=self.request_id,
            phase=self.phase,
            place=self.place,
            content="".join(self.content[seen:]),
            reasoning="".join(self.reasoning[seen:]),
            record=self.record,
        )

    async def follow(self, tell: Callable[[Update], Awaitable[None]]) -> None:
        """Pass every update to `tell`, from the start to the record; joined while `tell` is slow."""
        news = asyncio.Event()
        self.followers.add(news)
        try:
            seen = 0
            while True:
                news.clear()
                update, seen = self.since(seen), len(self.content)
                await tell(update)
                if update.record:
                    return
                await news.wait()
        finally:
            self.followers.discard(news)
