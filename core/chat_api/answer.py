"""One streamed answer while it grows: the facts that become a request's record."""

import asyncio
import time
from collections.abc import Callable
from datetime import datetime
from typing import NamedTuple

from core.chat_api import dialects
from core.chat_api.dialects import StreamEvent, Usage
from core.chat_api.failures import failure
from core.domain.specs import Dialect
from core.domain.timing import Timing
from core.domain.turns import FinishReason, utc_now
from core.errors import EngineError, LMDynoError


class NewText(NamedTuple):
    """Text that arrived since it was last taken."""

    content: str
    reasoning: str


class Answer:
    """Collects timestamps, texts and counts of one request. Belongs to one event loop.

    `on_sent` is called when the request has gone out, `on_text` after each read that brought text; both must
    return at once, since timestamps are taken in the same event loop.
    """

    def __init__(
        self,
        dialect: Dialect,
        *,
        on_sent: Callable[[], None] | None = None,
        on_text: Callable[[], None] | None = None,
    ) -> None:
        self.sent_at: datetime | None = None
        self.served_model: str | None = None
        self.finish_reason: FinishReason | None = None
        self.complete = False
        """The stream said that it is over, by a finish reason or `[DONE]`."""
        self.over = False
        """`[DONE]` came: nothing follows."""
        self.notes: list[str] = []
        self._dialect = dialect
        self._on_sent = on_sent
        self._on_text = on_text
        self._sent_ns: int | None = None
        self._first_event_ns: int | None = None
        self._ended_ns: int | None = None
        self._chunk_ns: list[int] = []
        self._content: list[str] = []
        self._reasoning: list[str] = []
        self._chunk_tokens: list[int] = []
        self._held_tokens = 0
        self._names_tokens = False
        self._has_reasoning = False
        self._usage: Usage | None = None
        self._taken = 0

    @property
    def has_text(self) -> bool:
        return bool(self._chunk_ns)

    @property
    def text(self) -> str:
        return "".join(self._content)

    @property
    def reasoning(self) -> str:
        return "".join(self._reasoning)

    @property
    def prompt_tokens(self) -> int | None:
        return self._usage.prompt_tokens if self._usage else None

    @property
    def cached_tokens(self) -> int | None:
        return self._usage.cached_tokens if self._usage else None

    @property
    def output_tokens(self) -> int | None:
        """By usage; for an answer cut short, by the token ids that came."""
        if self._usage and self._usage.completion_tokens is not None:
            return dialects.output_tokens(self._dialect, self._usage.completion_tokens, self.finish_reason)
        return sum(self._chunk_tokens) + self._held_tokens if self._names_tokens else None

    def sent(self) -> None:
        """The connection stands and the request is written to it now; further calls change nothing."""
        if self._sent_ns is not None:
            return
        self.sent_at = utc_now()
        self._sent_ns = time.perf_counter_ns()
        if self._on_sent:
            # Later, since the request is written to the connection only when this returns.
            asyncio.get_running_loop().call_soon(self._on_sent)

    def add(self, timestamp_ns: int, events: list[bytes]) -> None:
        """Take the events of one read that arrived at `timestamp_ns`; raises the error that one of them
        holds."""
        chunks_before = len(self._chunk_ns)
        try:
            for data in events:
                if data == dialects.DONE:
                    self.complete = self.over = True
                    return
                self._add(timestamp_ns, dialects.read_event(data))
        finally:
            if self._on_text and len(self._chunk_ns) > chunks_before:
                self._on_text()

    def end(self) -> None:
        """The stream is over or cut off, now."""
        if self._ended_ns is None:
            self._ended_ns = time.perf_counter_ns()

    def take_text(self) -> NewText:
        """The text since the last call."""
        start, self._taken = self._taken, len(self._chunk_ns)
        return NewText("".join(self._content[start:]), "".join(self._reasoning[start:]))

    def timing(self) -> Timing | None:
        """The timestamps so far; None if the request was never sent."""
        if self._sent_ns is None:
            return None
        return Timing(
            sent_ns=self._sent_ns,
            first_event_ns=self._first_event_ns,
            chunk_ns=tuple(self._chunk_ns),
            content_chars=tuple(map(len, self._content)),
            reasoning_chars=tuple(map(len, self._reasoning)) if self._has_reasoning else (),
            chunk_tokens=tuple(self._chunk_tokens) if self._names_tokens else None,
            output_tokens=self.output_tokens,
            ended_ns=self._ended_ns,
        )

    def _add(self, timestamp_ns: int, event: StreamEvent) -> None:
        if event.error:
            raise failure(event.error)
        if event.has_choices and self._first_event_ns is None:
            self._first_event_ns = timestamp_ns
        if event.tokens is not None:
            self._names_tokens = True
            self._held_tokens += event.tokens
        if event.content or event.reasoning:
            self._chunk_ns.append(timestamp_ns)
            self._content.append(event.content)
            self._reasoning.append(event.reasoning)
            # Tokens whose text was held back count for the chunk that shows it.
            self._chunk_tokens.append(self._held_tokens)
            self._held_tokens = 0
            if event.reasoning:
                self._has_reasoning = True
        if event.usage:
            self._usage = event.usage
        if event.model and self.served_model is None:
            self.served_model = event.model
        if event.finish_reason:
            self._finish(event.finish_reason)

    def _finish(self, word: str) -> None:
        self.complete = True
        self.finish_reason = dialects.finish_reason(word)
        if self.finish_reason is FinishReason.ERROR:
            raise _given_up(word)
        if not dialects.is_plain_finish(word):
            self.notes.append(f"The server ended the answer with {word!r}")


def _given_up(word: str) -> LMDynoError:
    return EngineError(
        f"The engine gave up the answer ({word})",
        hint="What arrived is kept. For a local lane, see its log.",
        code="engine-gave-up",
    )
