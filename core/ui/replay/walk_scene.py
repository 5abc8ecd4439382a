"""A recorded walk, its steps appearing one after another."""

import streamlit as st

from core import units
from core.domain.walk import WalkRun
from core.replay.walk import WalkTimeline
from core.ui.walk.steps import show_step, step_title

_HEIGHT_PX = 560


class WalkScene:
    """Draws into the container that is current when it is made. For one run of the script."""

    def __init__(self, run: WalkRun, timeline: WalkTimeline) -> None:
        self._run, self._timeline = run, timeline
        with st.container(height=_HEIGHT_PX, border=False, autoscroll=True):
            self._places = [st.empty() for _step in run.steps]
        self._drawn = 0
        self._under_way = ""

    def draw(self, at_s: float, *, final: bool) -> None:  # noqa: ARG002 - nothing is held back
        """Each step whole when it is over, and before that what is under way."""
        frame = self._timeline.frame(at_s)
        for place in range(self._drawn, frame.done):
            with self._places[place].container():
                show_step(place + 1, self._run.steps[place])
        self._drawn = frame.done
        if frame.done == len(self._places):
            return
        title = step_title(frame.done + 1, self._run.steps[frame.done])
        under_way = f":shimmer[{title}] · {units.duration(float(int(frame.elapsed_s)))}"
        if under_way != self._under_way:
            self._under_way = under_way
            self._places[frame.done].markdown(under_way)
