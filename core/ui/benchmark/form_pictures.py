"""The pictures of the benchmark's form: taken in as they are uploaded, and added to its plan."""

from collections.abc import Callable
from dataclasses import replace

import streamlit as st

from core.bench.planning.plan import BenchPlan
from core.bench.workload.pictures import check_sendable
from core.domain.pictures import Picture
from core.domain.turns import ErrorInfo
from core.errors import InputError, LMDynoError
from core.pictures.intake import take_in
from core.ui.shared import resources
from core.ui.shared.components import show_error
from core.ui.shared.picture_views import show_pictures

_ON = "bench_with_pictures"
_UPLOAD = "bench_picture_upload"
_PICTURES = "bench_pictures"
_PROBLEMS = "bench_picture_problems"
_THUMBNAIL_PX = 64


def show(on_change: Callable[[], None]) -> None:
    """The switch and, where it is on, the pictures; `on_change` as for the form's other fields."""
    is_on = st.toggle(
        "A picture with each request",
        key=_ON,
        on_change=on_change,
        persist_state="session",
        help="In turn, before the text, and each time with noise of its own in a corner, so that no engine "
        "can answer from a picture that it has seen. TTFT then includes what the engine does with it.",
    )
    if not is_on:
        return
    st.file_uploader("Pictures", accept_multiple_files=True, key=_UPLOAD, on_change=_take)
    for problem in st.session_state.get(_PROBLEMS, ()):
        show_error(problem)
    show_pictures(_pictures(), width_px=_THUMBNAIL_PX)


def added(plan: BenchPlan) -> BenchPlan:
    """The plan with the pictures that are to go with its requests.

    Raises InputError if there are none yet, too many, or a lane that can't be sent them.
    """
    if not st.session_state.get(_ON):
        return plan
    if not _pictures():
        raise InputError("There is no picture yet", hint="Upload one or more, or switch pictures off.")
    plan = replace(plan, workload=replace(plan.workload, pictures=_pictures()))
    check_sendable(plan)
    return plan


def start_with(pictures: tuple[Picture, ...]) -> None:
    """Have the form hold those of the pictures that are still there; without any the switch is off."""
    there = tuple(each for each in pictures if resources.shelf().thumbnail(each, _THUMBNAIL_PX))
    st.session_state[_ON], st.session_state[_PICTURES] = bool(there), there


def _pictures() -> tuple[Picture, ...]:
    pictures: tuple[Picture, ...] = st.session_state.get(_PICTURES, ())
    return pictures


def _take() -> None:
    """All that is uploaded; what can't be used becomes a problem, and the others stay."""
    pictures, problems = [], []
    for file in st.session_state[_UPLOAD]:
        try:
            pictures.append(resources.shelf().put(take_in(file.getvalue(), name=file.name)))
        except LMDynoError as error:
            problems.append(ErrorInfo.of(error))
    st.session_state[_PICTURES], st.session_state[_PROBLEMS] = tuple(pictures), tuple(problems)
