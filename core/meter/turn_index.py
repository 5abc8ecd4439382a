"""Which turns this process started, by conversation.

The meter writes to the store at its own pace, or not at all while the disk is full. A page that is loaded
again in between finds its running turns through this.
"""

import threading
from collections import OrderedDict

_CONVERSATIONS = 200
"""As many as the meter remembers turns, so an older entry would find nothing there."""


class TurnIndex:
    """Thread-safe: every browser session of the process uses it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._turn_ids: OrderedDict[str, tuple[str, ...]] = OrderedDict()

    def add(self, conversation_id: str, turn_id: str) -> None:
        with self._lock:
            self._turn_ids[conversation_id] = (*self._turn_ids.get(conversation_id, ()), turn_id)
            self._turn_ids.move_to_end(conversation_id)
            while len(self._turn_ids) > _CONVERSATIONS:
                self._turn_ids.popitem(last=False)

    def of(self, conversation_id: str) -> tuple[str, ...]:
        """Ids of the conversation's turns that were started here, oldest first."""
        with self._lock:
            return self._turn_ids.get(conversation_id, ())
