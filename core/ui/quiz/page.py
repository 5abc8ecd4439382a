"""The vision page's "Ask all": a set of questions about images to all picked lanes, as a background job."""

from collections.abc import Callable, Sequence

import streamlit as st

from core.access.guard import Action
from core.errors import InputError, LMDynoError
from core.i18n import N_, N_plural, _, ngettext
from core.image_quiz.job import JOB_KIND, start_quiz
from core.image_quiz.plan import (
    UPLOAD_EXAMPLE,
    QuizPlan,
    QuizQuestion,
    gallery_questions,
    one_question,
    put,
    uploaded_questions,
)
from core.image_quiz.results import load
from core.images.gallery import GalleryKind, gallery
from core.images.sanitise import sanitise
from core.jobs.records import JobStatus
from core.jobs.registry import Jobs
from core.quality.tasks.task import RULE
from core.ui.chat import settings as chat_controls
from core.ui.chat.demo_vision import needs_preparing, show_limits, show_no_lanes, show_preparing, show_refused
from core.ui.chat.session import ConversationPage
from core.ui.engines.status import REFRESH_S
from core.ui.quiz.results import show_results
from core.ui.shared import resources
from core.ui.shared.components import show_error
from core.ui.shared.images import counted
from core.ui.shared.job_panel import not_deleted, show_job
from core.ui.shared.visitor import offers

_QUESTIONS_AT_FIRST = 24
_SHOWN = 20
_Questions = tuple[QuizQuestion, ...]


def show_quiz(page: ConversationPage) -> None:
    """The form, the running quiz, and the results of earlier ones."""
    lanes = resources.lanes().lanes
    offered = page.offered(lanes)
    if not offered:
        show_no_lanes(lanes)
        return
    chat_controls.prepare(page, offered, None)
    with st.sidebar:
        chat_controls.show(page, offered)
        show_refused(lanes)
    st.markdown(
        _(
            "Asks the selected lanes each question separately and scores the answers. Keeps running if "
            "you leave "
            "this page."
        )
    )
    picked = chat_controls.picked_lanes(page, offered)
    show_limits(picked, ())
    if needs_preparing(picked):
        show_preparing()
    elif offers(Action.START_JOB):
        _show_form(page)
    _show_runs()


def _show_form(page: ConversationPage) -> None:
    chosen = st.segmented_control(
        _("Question set"),
        list(_SETS),
        default="scenes",
        format_func=lambda name: _(_SETS[name]),
        required=True,
        key=page.key("quiz_set"),
    )
    try:
        questions = _FORMS[chosen](page)
        if questions is None:
            return
        settings = chat_controls.read(page, resources.lanes().lanes)
        plan = QuizPlan(
            title=N_plural(
                "{set}: {n} question, {lanes}",
                "{set}: {n} questions, {lanes}",
                len(questions),
                set=_SETS[chosen],
                lanes=", ".join(lane.name for lane in settings.lanes),
            ),
            lanes=settings.lanes,
            questions=questions,
            mode=settings.mode,
            sampling=settings.sampling,
            system_prompt=settings.system_prompt,
        )
        start_quiz(resources.settings(), plan)
    except LMDynoError as error:
        show_error(error)


def _gallery_form(page: ConversationPage, kind: GalleryKind) -> _Questions | None:
    images = [image for image in gallery() if image.kind is kind]
    total = sum(len(image.questions) for image in images)
    if not total:
        st.info(_("The gallery has no images of this kind."), icon=":material/image:")
        return None
    with st.form(page.key(f"quiz_{kind}"), border=True):
        st.markdown(
            ngettext(
                "{n} question about {images}, with expected answers.",
                "{n} questions about {images}, with expected answers.",
                total,
                images=counted(len(images)),
            )
        )
        number = (
            st.slider(
                _("Questions"),
                1,
                total,
                min(total, _QUESTIONS_AT_FIRST),
                key="quiz_number",
            )
            if total > 1
            else 1
        )
        asked = _ask_button()
    return gallery_questions(resources.image_store(), kind)[:number] if asked else None


def _question_form(page: ConversationPage) -> _Questions | None:
    shown = {_(image.title): image for image in gallery()}
    with st.form(page.key("quiz_question"), border=True):
        question = st.text_input(
            _("Question"),
            placeholder=_("How many circles are there?"),
            key="quiz_question",
        )
        expected = st.text_input(
            _("Expected answers"),
            placeholder=_("Optional. Without them, answers are collected but not scored"),
            help=_("Separate answers with commas. For every image, any of them counts as correct."),
            key="quiz_answers",
        )
        titles = st.multiselect(
            _("Gallery images"),
            list(shown),
            key="quiz_gallery",
            placeholder=_("Choose one or more"),
        )
        files = st.file_uploader(
            _("Custom images"),
            accept_multiple_files=True,
            key="quiz_images",
        )
        if not _ask_button():
            return None
    image_store = resources.image_store()
    images = [put(image_store, shown[title]) for title in titles]
    images += [image_store.put(sanitise(file.getvalue(), name=file.name)) for file in files]
    if not images:
        raise InputError(
            N_("No image is selected."), hint=N_("Choose one from the gallery, or upload a file.")
        )
    return one_question(question, images, expected.split(","))


def _upload_form(page: ConversationPage) -> _Questions | None:
    with st.form(page.key("quiz_upload"), border=True):
        st.markdown(
            _("Upload a JSONL file with one line per question, together with the images that it names:")
        )
        st.code(UPLOAD_EXAMPLE, language="json", wrap_lines=True)
        files = st.file_uploader(
            _("Question list and images"),
            accept_multiple_files=True,
            key="quiz_files",
        )
        if not _ask_button():
            return None
    return uploaded_questions(resources.image_store(), {file.name: file.getvalue() for file in files})


_SETS = {
    "scenes": N_("Drawn scenes"),
    "photos": N_("Photographs"),
    "question": N_("One question"),
    "upload": N_("Custom set"),
}
_FORMS: dict[str, Callable[[ConversationPage], _Questions | None]] = {
    "scenes": lambda page: _gallery_form(page, GalleryKind.SCENE),
    "photos": lambda page: _gallery_form(page, GalleryKind.PHOTO),
    "question": _question_form,
    "upload": _upload_form,
}


def _ask_button() -> bool:
    asked = st.form_submit_button(_("Ask all"), type="primary", icon=":material/play_arrow:")
    st.caption(_(RULE))
    return asked


def _show_runs() -> None:
    statuses = not_deleted(Jobs(resources.settings()).statuses(JOB_KIND)[:_SHOWN])
    if statuses and not statuses[0].state.ended:
        _show_running()
        statuses = statuses[1:]
    if statuses:
        _show_ended(statuses)


@st.fragment(run_every=REFRESH_S)
def _show_running() -> None:
    """The newest quiz while it runs; refreshes itself, and the page at its end."""
    status = Jobs(resources.settings()).statuses(JOB_KIND)[0]
    if status.state.ended:
        st.rerun()
    with st.container(border=True):
        show_job(status, end=N_("Stop"), show_detail=_show_scores)


def _show_ended(statuses: Sequence[JobStatus]) -> None:
    by_id = {status.id: status for status in statuses}
    chosen = st.selectbox(
        _("Results"),
        list(by_id),
        format_func=lambda job: (
            f"{_(by_id[job].spec.title)} · {by_id[job].spec.created_at:%Y-%m-%d %H:%M} UTC"
        ),
        key="quiz_results",
    )
    with st.container(border=True):
        show_job(by_id[chosen], show_detail=_show_all)


def _show_scores(status: JobStatus) -> None:
    _show(status, drill_down=False)


def _show_all(status: JobStatus) -> None:
    _show(status, drill_down=True)


def _show(status: JobStatus, *, drill_down: bool) -> None:
    try:
        run = load(resources.settings(), status.id)
    except LMDynoError as error:
        show_error(error)
        return
    if run and run.answers:
        show_results(run, drill_down=drill_down)
