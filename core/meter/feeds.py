"""What a request has told so far, kept for followers that come late or come again."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from core.domain.turns import Phase, RequestRecord
from core.meter.protocol import Update


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
    """There is news that the store has not been given."""
    saved_chunks: int = 0
    """Chunks of the answer that it has been given."""
    followers: set[asyncio.Event] = field(default_factory=set)

    def take(self, update: Update) -> None:
        self.phase, self.place, self.record = update.phase, update.place, update.record
        self.content.append(update.content)
        self.reasoning.append(update.reasoning)
        self.unsaved = True
        for follower in self.followers:
            follower.set()

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
