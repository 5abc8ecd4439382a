"""Fixed places for the parts of a page that aren't always there.

Streamlit tells elements apart by their position. If a part is left out, everything after it moves up, and a
browser goes on showing what the run before had in its place until this run ends, which for a streaming page
is long. So every part has a place of its own, and a place that is not used is emptied.
"""

from collections import deque
from types import TracebackType

import streamlit as st
from streamlit.delta_generator import DeltaGenerator


class Slots:
    """The places of one container, named in their order. Use it as a context manager.

    with Slots("status", "answer") as slots:
        with slots.fill("answer"):  # empties "status", which comes before it
            ...
    """

    def __init__(self, *names: str) -> None:
        self._left = deque(names)

    def __enter__(self) -> "Slots":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # A run that is broken off draws nothing more.
        if kind is None:
            self._empty(len(self._left))

    def fill(self, name: str) -> DeltaGenerator:
        """A container in the place of that name; places that were passed over are emptied.

        Raises ValueError for a place that is not left: they are filled in order, each at most once.
        """
        if name not in self._left:
            raise ValueError(f"the places left are {', '.join(self._left) or 'none'}, without {name}")
        self._empty(self._left.index(name))
        self._left.popleft()
        return st.container()

    def _empty(self, number: int) -> None:
        for _ in range(number):
            self._left.popleft()
            st.empty()
