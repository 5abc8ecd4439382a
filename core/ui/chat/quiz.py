"""The vision page's "Ask all": a set of questions about images to all picked lanes, and the quiz's results.

It runs as a background job. Results are a table and charts by lane, and each question with what every lane
said.
"""

import math
from collections.abc import Callable, Sequence

import streamlit as st

from core import units
from core.access.guard import Action
from core.charts.quality_points import AccuracyBar, LatencyBar, accuracy_chart, latency_chart
from core.codec import encode_plain
from core.domain.turns import RequestRecord
from core.errors import InputError, LMDynoError
from core.i18n import N_, N_plural, _, ngettext
from core.images.gallery import GalleryKind, gallery
from core.images.sanitise import sanitise
from core.jobs.registry import Jobs, JobStatus
from core.quality.image_quiz import (
    JOB_KIND,
    UPLOAD_EXAMPLE,
    LaneScore,
    QuizAnswer,
    QuizPlan,
    QuizQuestion,
    QuizRun,
    Verdict,
    gallery_questions,
    load,
    one_question,
    put,
    scores,
    start_quiz,
    uploaded_questions,
    verdict,
)
from core.quality.tasks import RULE
from core.ui.chat import controls as chat_controls
from core.ui.chat.images import needs_preparing, show_limits, show_no_lanes, show_preparing, show_refused
from core.ui.chat.session import ConversationPage
from core.ui.chat.turn import describe
from core.ui.engines.status import REFRESH_S
from core.ui.shared import resources
from core.ui.shared.components import (
    color_of,
    escape,
    images_counted,
    lane_label,
    show_chart,
    show_error,
    show_image,
)
from core.ui.shared.jobs import not_deleted, show_job
from core.ui.shared.visitor import offers, show_export

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
                images=images_counted(len(images)),
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


_PAGE = 8
_IMAGE_PX = 140
_BADGES = {
    Verdict.RIGHT: N_(":green-badge[:material/check: correct]"),
    Verdict.WRONG: N_(":red-badge[:material/close: wrong]"),
    Verdict.NO_ANSWER: N_(":orange-badge[:material/error: no answer]"),
    Verdict.NOT_GRADED: N_(":gray-badge[not scored]"),
}
_FILTERS = {
    "all": (N_("All"), frozenset(Verdict)),
    "wrong": (N_("Any wrong"), frozenset({Verdict.WRONG})),
    "missing": (N_("Any missing"), frozenset({Verdict.NO_ANSWER})),
}


def show_results(run: QuizRun, *, drill_down: bool) -> None:
    """Scores of the questions answered so far; with `drill_down` the questions one by one too."""
    lane_scores = scores(run)
    st.caption(describe(run.plan))
    st.table(_table(lane_scores), border="horizontal", hide_index=True, width="content")
    st.caption(
        _(
            "{asked} of {total} questions asked. 95% interval: Wilson score interval. p50: median of the "
            "timed "
            "answers.",
            asked=len(run.answers),
            total=len(run.plan.questions),
        )
    )
    _show_charts(run, lane_scores)
    if any(record.device == "cpu" for answer in run.answers for record in answer.records):
        st.caption(f":material/info: {_('Measured on a CPU. Not comparable with GPU figures.')}")
    if drill_down:
        show_export(
            _("Export JSON"),
            f"quiz {run.plan.id}",
            lambda: encode_plain(run),
            file_name=f"quiz-{run.plan.id}.json",
            key=f"export_{run.plan.id}",
        )
        _show_questions(run)


def _table(lane_scores: tuple[LaneScore, ...]) -> dict[str, list[str]]:
    return {
        _("Lane"): [lane_label(score.lane) for score in lane_scores],
        _("Correct"): [_right(score) for score in lane_scores],
        _("95% interval"): [_interval(score) for score in lane_scores],
        _("Wrong"): [str(score.wrong) for score in lane_scores],
        _("No answer"): [str(score.no_answer) for score in lane_scores],
        "TTFT p50": [units.milliseconds(score.ttft_p50_s) for score in lane_scores],
        "E2E p50": [units.milliseconds(score.e2e_p50_s) for score in lane_scores],
        _("Timed answers"): [str(score.timed) for score in lane_scores],
    }


def _right(score: LaneScore) -> str:
    if score.accuracy_ratio is None:
        return units.UNKNOWN
    return _(
        "**{share}** ({part} of {total})",
        share=f"{score.accuracy_ratio:.0%}",
        part=score.right,
        total=score.graded,
    )


def _interval(score: LaneScore) -> str:
    interval = score.interval
    if interval is None:
        return units.UNKNOWN
    return _("{low} to {high}", low=f"{interval.low:.0%}", high=f"{interval.high:.0%}")


def _show_charts(run: QuizRun, lane_scores: tuple[LaneScore, ...]) -> None:
    colors = {score.lane: color_of(score.lane) for score in lane_scores}
    with st.grid(2, min_column_width=300):
        if run.graded:
            show_chart(
                accuracy_chart([_accuracy_bar(score) for score in lane_scores], colors),
                key=f"accuracy_{run.plan.id}",
                alt=_("Share of correct answers by lane; values in the table above"),
            )
        show_chart(
            latency_chart(
                [
                    LatencyBar(lane=score.lane, ttft_s=score.ttft_p50_s, e2e_s=score.e2e_p50_s)
                    for score in lane_scores
                ],
                colors,
            ),
            key=f"latency_{run.plan.id}",
            alt=_("Median TTFT and E2E latency by lane; values in the table above"),
        )


def _accuracy_bar(score: LaneScore) -> AccuracyBar:
    interval = score.interval
    return AccuracyBar(
        lane=score.lane,
        ratio=score.accuracy_ratio,
        low=interval.low if interval else None,
        high=interval.high if interval else None,
        text=units.UNKNOWN if score.accuracy_ratio is None else f"{score.accuracy_ratio:.0%}",
    )


def _show_questions(run: QuizRun) -> None:
    key = run.plan.id
    chosen = st.segmented_control(
        _("Questions"),
        list(_FILTERS),
        default="all",
        format_func=lambda name: _(_FILTERS[name][0]),
        required=True,
        key=f"quiz_filter_{key}",
    )
    questions = [
        answer
        for answer in run.answers
        if any(_verdict(run, answer, record) in _FILTERS[chosen][1] for record in answer.records)
    ]
    if not questions:
        st.caption(_("There are no such questions."))
        return
    pages = math.ceil(len(questions) / _PAGE)
    page = st.pagination(pages, key=f"quiz_page_{key}_{chosen}") if pages > 1 else 1
    for answer in questions[(page - 1) * _PAGE : page * _PAGE]:
        with st.container(border=True, horizontal=True):
            _show_question(run, answer)


def _show_question(run: QuizRun, answer: QuizAnswer) -> None:
    question = run.plan.questions[answer.question]
    with st.container(width=_IMAGE_PX):
        show_image(question.image)
    with st.container(gap="small"):
        expected = escape(", ".join(question.answers)) or _("any answer")
        st.markdown(
            f"**{escape(question.question)}**  \n:small[:gray[{_('Expected: {answers}', answers=expected)}]]"
        )
        for record in answer.records:
            text = escape(_(record.error.message) if record.error else record.text.strip()) or _("no text")
            badge = _(_BADGES[_verdict(run, answer, record)])
            st.markdown(f"{lane_label(record.lane.name)} {badge} {text}")


def _verdict(run: QuizRun, answer: QuizAnswer, record: RequestRecord) -> Verdict:
    return verdict(record, run.plan.questions[answer.question])
