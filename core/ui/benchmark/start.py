"""A preview of the plan that the benchmark's form describes, and the button that starts it."""

import streamlit as st

from core import units
from core.bench.planning.passes import estimated_s
from core.bench.planning.plan import BenchPlan
from core.bench.planning.wording import advice, described
from core.bench.run.job import running_benches, start_bench
from core.errors import LMDynoError
from core.i18n import _
from core.ui.benchmark import form_state as bench_values
from core.ui.benchmark.form_state import known_speeds
from core.ui.shared import resources
from core.ui.shared.components import escape, show_error


def show_start() -> None:
    """The plan in words, its duration, its warnings and the start button; or the error in the form."""
    plan = None
    try:
        plan = bench_values.read()
    except LMDynoError as error:
        show_error(error)
    else:
        _show_outlook(plan)
    is_busy = bool(running_benches(resources.settings()))
    is_wanted = st.button(
        _("Queue after the current run") if is_busy else _("Start"),
        type="primary",
        icon=":material/play_arrow:",
        disabled=plan is None,
        key="bench_start",
    )
    if is_wanted and plan:
        _start(plan)


def _start(plan: BenchPlan) -> None:
    dashboard = resources.resources()
    try:
        with st.spinner(_("Starting")):
            start_bench(dashboard.settings, plan, gpu=dashboard.gpu)
    except LMDynoError as error:
        show_error(error)
        return
    st.rerun()


def _show_outlook(plan: BenchPlan) -> None:
    speeds = known_speeds(plan.lanes)
    facts = (_("{label}: {text}", label=fact.label, text=fact.text) for fact in described(plan))
    st.caption(escape(" · ".join(facts)))
    duration = units.duration(estimated_s(plan, speeds))
    if len(speeds) == len(plan.lanes):
        st.markdown(
            _(
                "Estimated duration: **{duration}** (from earlier runs), plus engine start-up.",
                duration=duration,
            )
        )
    else:
        st.markdown(
            _(
                "Estimated duration: **{duration}** (rough guess; these lanes haven't been measured "
                "yet), plus "
                "engine start-up.",
                duration=duration,
            )
        )
    notes = [
        _(
            "{lane} can't run here: {problem} {hint}",
            lane=lane.name,
            problem=_(reason.message),
            hint=_(reason.hint),
        )
        for lane in plan.lanes
        if (reason := resources.unfit(lane))
    ]
    notes += advice(plan, gpu=resources.resources().gpu, speeds=speeds)
    if notes:
        st.markdown("  \n".join(f":orange[:material/warning:] {escape(note)}" for note in notes))
