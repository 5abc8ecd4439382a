"""One streamed answer while it grows: the facts that become a request's record."""

import asyncio
import time
from collections.abc import Callable
from datetime import datetime
from typing import NamedTuple

from core.chat_api import dialects
from core.chat_api.lenient import ServerError, TextJoiner, one_line
from core.chat_api.stream import Event, StreamEvent, Usage, read_event
from core.domain.specs import Dialect
from core.domain.timing import Timing
from core.domain.turns import FinishReason, utc_now
from core.i18n import N_, Text

MAX_TEXT_CHARS = 4 * 2**20
"""Eight times what the largest max_tokens gives."""
MAX_CHUNKS = 400_000
"""Three times the largest max_tokens."""
_MAX_STRANGE = 100


class NewText(NamedTuple):
    """Text that arrived since it was last taken."""

    content: str
    reasoning: str


class Answer:
    """Collects timestamps, texts and counts of one request. Belongs to one event loop.

    Nothing that a server sends raises. Whether the request succeeded, `core.chat_api.failures` says.

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
        self.finish_word = ""
        """The finish reason in the server's own words."""
        self.complete = False
        """The stream said that it is over, by a finish reason or `[DONE]`."""
        self.over = False
        """Nothing that follows matters: `[DONE]`, an error, or more than an answer can hold."""
        self.error: ServerError | None = None
        """What the server said went wrong, before any end."""
        self.strange = ""
        """The beginning of the first event, before any end, that can't be understood."""
        self.stray = b""
        """What came in place of an event stream, if the stream had no event at all."""
        self.is_too_large = False
        self.calls_tool = False
        self.notes: list[Text] = []
        self._dialect = dialect
        self._on_sent = on_sent
        self._on_text = on_text
        self._sent_ns: int | None = None
        self._first_event_ns: int | None = None
        self._ended_ns: int | None = None
        self._chunk_ns: list[int] = []
        self._content: list[str] = []
        self._reasoning: list[str] = []
        self._content_joiner = TextJoiner()
        self._reasoning_joiner = TextJoiner()
        self._text_chars = 0
        self._chunk_tokens: list[int] = []
        self._shown_tokens = 0
        self._held_tokens = 0
        self._tokens_so_far = 0
        self._names_tokens = False
        self._has_reasoning = False
        self._strange_events = 0
        self._usage = Usage()
        self._counted_tokens: int | None = None
        self._has_end_token = False
        self._taken = 0

    @property
    def has_text(self) -> bool:
        return self._text_chars > 0

    @property
    def text_chars(self) -> int:
        """Return the length of the text so far, reasoning included."""
        return self._text_chars

    @property
    def text(self) -> str:
        return "".join(self._content)

    @property
    def reasoning(self) -> str:
        return "".join(self._reasoning)

    @property
    def prompt_tokens(self) -> int | None:
        # No request is without a prompt: a server that says 0 does not count.
        return self._usage.prompt_tokens or None

    @property
    def cached_tokens(self) -> int | None:
        return self._usage.cached_tokens

    @property
    def output_tokens(self) -> int | None:
        """By usage, else by the token ids that came, else as counted here. 0 tokens of a text are unknown."""
        if self._usage.completion_tokens is not None:
            tokens = dialects.output_tokens(self._dialect, self._usage.completion_tokens, self.finish_reason)
            tokens -= self._has_end_token
            if tokens or not self.has_text:
                return tokens
        if self._names_tokens:
            return self._shown_tokens + self._held_tokens
        return self._counted_tokens

    def sent(self) -> None:
        """The connection stands and the request is written to it now; further calls change nothing."""
        if self._sent_ns is not None:
            return
        self.sent_at = utc_now()
        self._sent_ns = time.perf_counter_ns()
        if self._on_sent:
            # Later, since the request is written to the connection only when this returns.
            asyncio.get_running_loop().call_soon(self._on_sent)

    def unsent(self) -> None:
        """The request is to be sent again, since nothing came of it: its clock starts anew."""
        self.sent_at = self._sent_ns = None

    def note(self, text: Text) -> None:
        """Keep what a reader of the numbers must know; each thing once."""
        if text not in self.notes:
            self.notes.append(text)

    @property
    def needs_counting(self) -> bool:
        """Whether a tokenizer is needed to know the output tokens: the server sends no count, or one that may
        include the end-of-sequence token."""
        may_count_end = self._dialect is Dialect.GENERIC and self.finish_reason is FinishReason.STOP
        return self.has_text and (self.output_tokens is None or may_count_end)

    def count_with(self, count: Callable[[str], int]) -> None:
        """Count the text's tokens where `needs_counting`; the answer must have ended."""
        tokens = count(self.text) + count(self.reasoning)
        if self.output_tokens is None:
            self._counted_tokens = tokens
            self.note(N_("Tokens are counted with the lane's tokenizer, since the server sends no counts."))
        elif self._usage.completion_tokens == tokens + 1:
            self._has_end_token = True
            self.note(
                N_(
                    "The server counts the end-of-sequence token, by the lane's tokenizer. It is left "
                    "out of the output tokens."
                )
            )

    def add(self, timestamp_ns: int, events: list[Event]) -> None:
        """Take the events of one read that arrived at `timestamp_ns`."""
        chunks_before = len(self._chunk_ns)
        for event in events:
            for said in read_event(event):
                if not self.over:
                    self._add(timestamp_ns, said)
        if self._on_text and len(self._chunk_ns) > chunks_before:
            self._on_text()

    def end(self) -> None:
        """The stream is over or cut off, now."""
        if self._ended_ns is not None:
            return
        self._ended_ns = time.perf_counter_ns()
        # Half a character that waits for its other half belongs to the chunk that brought it.
        rest, reasoning_rest = self._content_joiner.close(), self._reasoning_joiner.close()
        if self._chunk_ns:
            self._content[-1] += rest
            self._reasoning[-1] += reasoning_rest
        elif rest or reasoning_rest:
            self._chunk(self._ended_ns, rest, reasoning_rest)

    def take_text(self) -> NewText:
        """The text since the last call."""
        start, self._taken = self._taken, len(self._chunk_ns)
        return self.text_from(start)

    def text_from(self, first_chunk: int) -> NewText:
        """The text of the chunks from that one on."""
        return NewText("".join(self._content[first_chunk:]), "".join(self._reasoning[first_chunk:]))

    def timing(self, first_chunk: int = 0) -> Timing | None:
        """The timestamps so far, of the chunks from that one on; None if the request was never sent."""
        if self._sent_ns is None:
            return None
        return Timing(
            sent_ns=self._sent_ns,
            first_event_ns=self._first_event_ns,
            chunk_ns=tuple(self._chunk_ns[first_chunk:]),
            content_chars=tuple(map(len, self._content[first_chunk:])),
            reasoning_chars=tuple(map(len, self._reasoning[first_chunk:])) if self._has_reasoning else (),
            chunk_tokens=tuple(self._chunk_tokens[first_chunk:]) if self._names_tokens else None,
            output_tokens=self.output_tokens,
            ended_ns=self._ended_ns,
        )

    def _add(self, timestamp_ns: int, event: StreamEvent) -> None:
        if event.is_done:
            if self.has_text and self.finish_reason is None:
                self.note(N_("The server ended the answer without a finish reason, so it may be incomplete."))
            self.complete = self.over = True
            return
        if event.has_choices and self._first_event_ns is None:
            self._first_event_ns = timestamp_ns
        self._add_tokens(event)
        content, reasoning = event.content, event.reasoning
        if event.message and not self.has_text:
            content = event.message
        if event.calls_tool:
            self.calls_tool = True
        if content or reasoning:
            self._text(timestamp_ns, content, reasoning)
        elif event.calls_tool:
            self._chunk(timestamp_ns, "", "")
        if event.usage:
            self._usage = self._usage.merged(event.usage)
        if event.model and self.served_model is None:
            self.served_model = one_line(event.model, 200)
        if event.strange:
            self._add_strange(event.strange)
        if event.finish_reason:
            self._finish(event.finish_reason)
        if event.error:
            self._fail(event.error)

    def _add_tokens(self, event: StreamEvent) -> None:
        if event.tokens is not None:
            self._names_tokens = True
            self._held_tokens += event.tokens
        elif event.tokens_so_far is not None:
            self._names_tokens = True
            self._held_tokens += max(0, event.tokens_so_far - self._tokens_so_far)
            self._tokens_so_far = max(event.tokens_so_far, self._tokens_so_far)

    def _text(self, timestamp_ns: int, content: str, reasoning: str) -> None:
        content = self._content_joiner.feed(content) if content else ""
        reasoning = self._reasoning_joiner.feed(reasoning) if reasoning else ""
        if not content and not reasoning:
            return  # half a character: it comes with its other half
        self._chunk(timestamp_ns, content, reasoning)
        self._text_chars += len(content) + len(reasoning)
        if reasoning:
            self._has_reasoning = True
        if self._text_chars > MAX_TEXT_CHARS or len(self._chunk_ns) >= MAX_CHUNKS:
            self.is_too_large = self.over = True

    def _chunk(self, timestamp_ns: int, content: str, reasoning: str) -> None:
        self._chunk_ns.append(timestamp_ns)
        self._content.append(content)
        self._reasoning.append(reasoning)
        # Tokens whose text was held back count for the chunk that shows it.
        self._chunk_tokens.append(self._held_tokens)
        self._shown_tokens += self._held_tokens
        self._held_tokens = 0

    def _add_strange(self, beginning: str) -> None:
        if self.complete:
            self.note(N_("The stream contained unexpected data after its end."))
            return
        self.strange = self.strange or beginning
        self._strange_events += 1
        if self._strange_events > _MAX_STRANGE:
            self.over = True

    def _finish(self, word: str) -> None:
        self.complete = True
        self.finish_word = one_line(word, 80)
        self.finish_reason = dialects.finish_reason(word)
        if self.finish_reason is not FinishReason.ERROR and not dialects.is_plain_finish(word):
            self.note(N_("The server ended the answer with “{word}”.", word=self.finish_word))

    def _fail(self, error: ServerError) -> None:
        if self.complete:
            self.note(N_("The stream reported an error after its end: {words}", words=error.words))
            return
        self.error = error
        self.over = True
