"""Uploads of the benchmark's form, images and a prompt file: checked and kept at once."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import streamlit as st

from core.bench.planning.plan import BenchPlan, Workload
from core.bench.planning.presets import PROMPT_ENDINGS
from core.bench.prompts import keep_prompt_file
from core.bench.request_images import check_sendable
from core.domain.conversation import StoredImage
from core.domain.turns import ErrorInfo
from core.errors import InputError, LMDynoError
from core.i18n import N_, _
from core.images.sanitise import sanitise
from core.ui.shared import resources
from core.ui.shared.components import escape, show_error
from core.ui.shared.images import show_images

_ON = "bench_with_images"
_UPLOAD = "bench_image_upload"
_IMAGES = "bench_images"
_PROBLEMS = "bench_image_problems"
_THUMBNAIL_PX = 64

_FILE = "bench_file"
_FILE_ERROR = "bench_file_error"
_FILE_UPLOAD = "bench_upload"


def show_images_field(on_change: Callable[[], None]) -> None:
    """The switch and, where it is on, the images; `on_change` as for the form's other fields."""
    is_on = st.toggle(
        _("An image with each request"),
        key=_ON,
        on_change=on_change,
        persist_state="session",
        help=_(
            "Images are sent in rotation, before the text. A little unique noise in one corner "
            "keeps engines from "
            "reusing cached results. TTFT then includes the engine's work on the image."
        ),
    )
    if not is_on:
        return
    st.file_uploader(_("Images"), accept_multiple_files=True, key=_UPLOAD, on_change=_take)
    for problem in st.session_state.get(_PROBLEMS, ()):
        show_error(problem)
    show_images(_images(), width_px=_THUMBNAIL_PX)


def with_images(plan: BenchPlan) -> BenchPlan:
    """The plan with the images that are to go with its requests.

    Raises InputError if there are none yet, too many, or a lane that can't be sent them.
    """
    if not st.session_state.get(_ON):
        return plan
    if not _images():
        raise InputError(
            N_("No image is selected."), hint=N_("Upload at least one image, or turn images off.")
        )
    plan = replace(plan, workload=replace(plan.workload, images=_images()))
    check_sendable(plan)
    return plan


def start_with_images(images: tuple[StoredImage, ...]) -> None:
    """Have the form hold those of the images that are still there; without any the switch is off."""
    there = tuple(image for image in images if resources.image_store().thumbnail(image, _THUMBNAIL_PX))
    st.session_state[_ON], st.session_state[_IMAGES] = bool(there), there


def _images() -> tuple[StoredImage, ...]:
    images: tuple[StoredImage, ...] = st.session_state.get(_IMAGES, ())
    return images


def _take() -> None:
    """All that is uploaded; what can't be used becomes a problem, and the others stay."""
    images, problems = [], []
    for file in st.session_state[_UPLOAD]:
        try:
            images.append(resources.image_store().put(sanitise(file.getvalue(), name=file.name)))
        except LMDynoError as error:
            problems.append(ErrorInfo.of(error))
    st.session_state[_IMAGES], st.session_state[_PROBLEMS] = tuple(images), tuple(problems)


def show_prompt_file() -> None:
    """The upload, and the file that is kept or what is wrong with it."""
    st.file_uploader(
        _("Prompt file"),
        type=list(PROMPT_ENDINGS),
        key=_FILE_UPLOAD,
        on_change=_take_prompt_file,
        help=_(
            "Text: one prompt per line. JSONL: one text or one object with `prompt`, `text`, or "
            "`messages` per line. JSON: a list in ShareGPT format. CSV: a column named `prompt`. For larger "
            "files, use `lmdyno bench --prompts FILE`."
        ),
    )
    if error := st.session_state.get(_FILE_ERROR):
        show_error(error)
    elif file := prompt_file():
        st.caption(f":material/description: {escape(Path(file.path or '').name)}")


def prompt_file() -> Workload | None:
    """A workload that names the file; None without one."""
    file: Workload | None = st.session_state.get(_FILE)
    return file


def start_with_prompt_file(workload: Workload) -> None:
    """Have the form hold the file of this workload, if it has one that is still there."""
    if workload.path and Path(workload.path).is_file():
        st.session_state[_FILE] = workload


def _take_prompt_file() -> None:
    uploaded = st.session_state[_FILE_UPLOAD]
    st.session_state.pop(_FILE_ERROR, None)
    if uploaded is None:  # taken out again
        st.session_state.pop(_FILE, None)
        return
    try:
        st.session_state[_FILE] = keep_prompt_file(resources.settings(), uploaded.name, uploaded.getvalue())
    except LMDynoError as error:
        st.session_state[_FILE_ERROR] = error
        st.session_state.pop(_FILE, None)
