"""What a request has told so far, kept for followers that come late or come again."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field

from core.domain.turns import Phase, RequestRecord
from core.meter.protocol import Update

BEAT_S = 0.05
"""Followers are told together, on beats: the dashboard's threads wake at once, and it sends once for all."""
_SLOWEST_S = 1.0
_UPDATES_PER_S = 200
"""To all followers together. Each costs the dashboard a block of Markdown to parse and to send."""


@dataclass(eq=False, slots=True)
class Pace:
    """How often a process's followers are told: the more there are, the less often each. Belongs to one event
    loop."""

    followers: int = 0

    @property
    def interval_s(self) -> float:
        return min(_SLOWEST_S, max(BEAT_S, self.followers / _UPDATES_PER_S))

    def next_s(self, now_s: float) -> float:
        """The beat on which a follower that is told now is told again, by the loop's clock."""
        return (now_s // BEAT_S + round(self.interval_s / BEAT_S)) * BEAT_S


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
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    """Set with the record."""

    def take(self, update: Update) -> None:
        self.phase, self.place, self.record = update.phase, update.place, update.record
        self.content.append(update.content)
        self.reasoning.append(update.reasoning)
        self.unsaved = True
        if update.record:
            self.ended.set()
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

    async def follow(self, tell: Callable[[Update], Awaitable[None]], pace: Pace) -> None:
        """Pass every update to `tell`, from the start to the record; those that come too soon are joined."""
        news = asyncio.Event()
        clock = asyncio.get_running_loop().time
        self.followers.add(news)
        pace.followers += 1
        try:
            seen = 0
            while True:
                news.clear()
                update, seen = self.since(seen), len(self.content)
                await tell(update)
                if update.record:
                    return
                with suppress(TimeoutError):  # the end is told at once
                    async with asyncio.timeout_at(pace.next_s(clock())):
                        await self.ended.wait()
                await news.wait()
        finally:
            pace.followers -= 1
            self.followers.discard(news)
