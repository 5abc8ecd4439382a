"""A recorded load test as it went: the pass, what each lane had in flight, and its speed over time."""

from time import monotonic

import streamlit as st

from core import units
from core.i18n import _
from core.replay.load import SPEED_WINDOW_S, LaneLoad, LoadFrame, LoadTimeline
from core.ui.shared.components import color_of, lane_label

_INTERVAL_S = 0.25
_POINTS = 240
"""Moments of the whole run in its chart."""
_CHART_HEIGHT_PX = 260
MIN_LANE_WIDTH_PX = 210


class LoadScene:
    """Draws into the container that is current when it is made. For one run of the script."""

    def __init__(self, timeline: LoadTimeline) -> None:
        self._timeline = timeline
        self._step_s = max(timeline.duration_s / _POINTS, _INTERVAL_S)
        self._head = st.empty()
        names = [lane.lane for lane in timeline.frame(0.0).lanes]
        self._colors = [color_of(name) for name in names]
        with st.grid(min(len(names), 3), min_column_width=MIN_LANE_WIDTH_PX) as grid:
            self._places = []
            for name in names:
                with grid.cell():
                    st.markdown(lane_label(name))
                    self._places.append(st.empty())
        self._chart = st.empty()
        st.caption(
            _("Output tokens per second, by lane, within the last {seconds} s", seconds=f"{SPEED_WINDOW_S:g}")
        )
        self._names = names
        self._columns: dict[str, list[float]] = {"s": [], **{name: [] for name in names}}
        self._due_s = 0.0

    def draw(self, at_s: float, *, final: bool) -> None:
        """At most four times a second: counts and a chart cost a browser more than text."""
        now_s = monotonic()
        if now_s < self._due_s and not final:
            return
        self._due_s = now_s + _INTERVAL_S
        frame = self._timeline.frame(at_s)
        self._head.markdown(_head(frame, len(self._timeline.passes)))
        for place, lane in zip(self._places, frame.lanes, strict=True):
            place.markdown(_counts(lane))
        times = self._columns["s"]
        while not times or times[-1] + self._step_s <= at_s:
            moment_s = times[-1] + self._step_s if times else 0.0
            times.append(moment_s)
            for lane in self._timeline.frame(moment_s).lanes:
                self._columns[lane.lane].append(lane.tok_per_s)
        self._chart.line_chart(
            self._columns,
            x="s",
            y=self._names,
            color=[*self._colors],
            x_label=_("Time, s"),
            y_label="tok/s",
            height=_CHART_HEIGHT_PX,
        )


def _head(frame: LoadFrame, passes: int) -> str:
    if frame.current is not None:
        load = _(frame.current.level.label)
        return _("Pass {number} of {total}: {load}", number=frame.passes_done + 1, total=passes, load=load)
    if frame.passes_done < passes:
        return _("Pass {number} of {total}: warming up", number=frame.passes_done + 1, total=passes)
    return _("All {total} passes are done", total=passes)


def _counts(lane: LaneLoad) -> str:
    text = _(
        "**{speed}** · {in_flight} in flight · {answered} answered · {tokens} tokens",
        speed=units.tok_per_s(lane.tok_per_s),
        in_flight=units.count(lane.in_flight),
        answered=units.count(lane.answered),
        tokens=units.count(lane.output_tokens),
    )
    if not lane.failed:
        return text
    return f"{text} · :red[{_('{n} failed', n=units.count(lane.failed))}]"
