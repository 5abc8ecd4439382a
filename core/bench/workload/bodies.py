"""Bodies of requests with images, made before they are needed: megabytes of text would hold up timestamps."""

import asyncio
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

_AHEAD_BYTES = 2**27
_AHEAD = 256

_thread = ThreadPoolExecutor(1, thread_name_prefix="bench-bodies")
"""One for all, since each body keeps Python's lock for a moment: about 1 ms a megabyte."""


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
