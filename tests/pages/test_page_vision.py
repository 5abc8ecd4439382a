"""The vision page over stand-ins for engines, meter and store; images, image store and gallery are real."""

from dataclasses import replace
from io import BytesIO
from types import SimpleNamespace

import page_fakes
import pytest
from PIL import Image

from core.config import VISION_DEMO_NAME, LaneRegistry
from core.domain.conversation import MAX_IMAGES, Sampling, StoredImage
from core.domain.specs import EndpointSpec, EngineKind, LaneSpec, ModelSpec
from core.domain.turns import ErrorInfo, RequestPlan, TurnPlan, planned_record
from core.engines.registry import EngineState
from core.images.gallery import GalleryKind, gallery
from core.images.sanitise import sanitise
from core.images.store import ImageStore
from core.jobs.registry import JobFolder, JobRecord, JobSpec, JobState
from core.models import job as models_job
from core.quality.image_quiz import JOB_KIND, QuizAnswer, QuizPlan, QuizQuestion, QuizRun, save
from core.settings import Settings
from core.ui.chat import images as chat_images
from core.ui.chat import quiz
from core.ui.chat.session import VISION
from core.ui.shared import resources
from tests.vision_checkpoints import INTERNVL, INTERNVL_FILES, LLAVA, LLAVA_FILES, write_checkpoint

SEES = replace(
    page_fakes.REMOTE, name="sees", endpoint=EndpointSpec(url="http://gpu-host:23333/v1", vision=True)
)
ALSO = replace(SEES, name="also")
BLIND = replace(SEES, name="blind", endpoint=replace(SEES.endpoint, vision=False))


def png(color="red", side_px=40):
    file = BytesIO()
    Image.new("RGB", (side_px, side_px), color).save(file, "PNG")
    return file.getvalue()


def jpeg():
    file = BytesIO()
    Image.new("RGB", (40, 40), "red").save(file, "JPEG")
    return file.getvalue()


@pytest.fixture
def vision(world, monkeypatch, tmp_path):
    """`world` with an image store, settings, and a registry whose lanes a test may change."""
    world.settings = Settings(home=tmp_path, lanes_file=tmp_path / "lanes.toml", database_url="sqlite://")
    world.image_store = ImageStore(world.settings.images_dir)
    world.lanes = (SEES, ALSO, BLIND)
    monkeypatch.setattr(resources, "lanes", lambda: LaneRegistry(models=(), lanes=world.lanes, source=None))
    monkeypatch.setattr(resources, "image_store", lambda: world.image_store)
    monkeypatch.setattr(resources, "resources", lambda: SimpleNamespace(settings=world.settings))
    return world


@pytest.fixture
def open_page(vision, new_app):
    def open_section(**query):
        vision.manager.lanes = vision.lanes
        app = new_app(**query)
        app.switch_page("pages/vision.py")
        app.run()
        assert not app.exception
        return app

    return open_section


def local_lane(vision, name="llava", model="llava", config=LLAVA, files=LLAVA_FILES):
    """A lane with 576 tokens per image and a context of 4,096, unless another checkpoint is given."""
    checkpoint = write_checkpoint(vision.settings.home / "models" / model, config, files)
    return LaneSpec(
        name=name, kind=EngineKind.TRANSFORMERS, model=ModelSpec(name=model, checkpoint=checkpoint)
    )


def attach(app, **files):
    for name, content in files.items():
        app.chat_input[0].upload(name.replace("_", "."), content, "image/png")
    return app


def ask(app, prompt="What is it?"):
    app.chat_input[0].set_value(prompt)
    app.run()
    assert not app.exception
    return app


def texts(app):
    kinds = (app.markdown, app.caption, app.error, app.info, app.warning, app.code)
    return "\n".join(element.value for kind in kinds for element in kind)


def button(app, label):
    return next(b for b in app.button if b.label == label)


def attachments(app):
    return app.session_state[VISION.key("state")].attachments


def stored_turn(world, *, images=(), conversation_id="c1", prompt="Stored prompt"):
    plan = TurnPlan(
        conversation_id=conversation_id,
        prompt=prompt,
        images=images,
        sampling=Sampling(),
        requests=(RequestPlan(lane=SEES, messages=()),),
    )
    turn = planned_record(plan)
    turn = replace(turn, requests=tuple(page_fakes.finished(r, "A stored answer.") for r in turn.requests))
    world.store.save(turn)
    return turn


def test_only_lanes_that_may_see_are_offered_and_the_others_say_why(open_page, vision):
    app = open_page()
    assert ["blind" in option for option in app.pills(key="vision_lanes").options] == [False, False]
    assert app.pills(key="vision_lanes").value == ["sees", "also"]
    assert "The lanes file says that this endpoint can't see images" in texts(app)
    assert vision.meter.plans == []


def test_without_any_lane_the_page_says_how_to_add_one(open_page, vision):
    vision.lanes = (BLIND,)
    app = open_page()
    assert "No lane can see images" in texts(app)
    assert "[lanes.llava]" in app.code[0].value
    assert len(app.chat_input) == 0


def test_images_and_question_become_one_plan(open_page, vision):
    app = ask(attach(open_page(), cat_png=png()), "What is it?")
    (plan,) = vision.meter.plans
    (image,) = plan.images
    assert (image.name, image.width_px, image.media_type) == ("cat.png", 40, "image/png")
    assert vision.image_store.read(image)
    assert [request.lane.name for request in plan.requests] == ["sees", "also"]
    for request in plan.requests:
        assert request.messages[-1].images == (image,)
    assert attachments(app) == ()
    assert "Answer of sees here." in texts(app)


def test_images_without_a_question_wait_in_the_tray(open_page, vision):
    app = open_page()
    attach(app, a_png=png("red"), b_png=png("blue")).run()
    assert [image.name for image in attachments(app)] == ["a.png", "b.png"]
    assert "2 of 8 images" in texts(app)
    button(app, "Remove").click().run()
    assert [image.name for image in attachments(app)] == ["b.png"]
    ask(app)
    assert [image.name for image in vision.meter.plans[0].images] == ["b.png"]


def test_a_bad_file_has_its_own_message_and_the_others_and_the_prompt_stay(open_page, vision):
    app = attach(open_page(), good_png=png(), bad_png=b"no image", other_png=b"")
    ask(app, "What is it?")
    assert vision.meter.plans == []
    errors = [error.value for error in app.error]
    assert len(errors) == 2
    assert any("bad" in error for error in errors)
    assert any("other" in error and "empty" in error for error in errors)
    assert [image.name for image in attachments(app)] == ["good.png"]
    assert app.chat_input[0].proto.value == "What is it?"
    ask(app, "What is it?")
    assert not app.error
    assert len(vision.meter.plans) == 1


def test_a_ninth_image_is_one_too_many(open_page, vision):
    app = open_page()
    for number in range(MAX_IMAGES + 1):
        app.chat_input[0].upload(f"{number}.png", png(side_px=40 + number), "image/png")
    app.run()
    assert len(attachments(app)) == MAX_IMAGES
    assert "8.png is one image too many" in app.error[0].value.replace("\\", "")


def test_the_same_image_twice_is_one(open_page):
    app = open_page()
    attach(app, a_png=png(), b_png=png()).run()
    assert len(attachments(app)) == 1


def test_earlier_images_stay_in_each_lanes_history(open_page, vision):
    app = ask(attach(open_page(), cat_png=png()), "What is it?")
    ask(app, "And its colour?")
    first, second = vision.meter.plans
    assert second.images == ()
    for request in second.requests:
        assert [message.images for message in request.messages] == [first.images, (), ()]
    assert "TTFT with 1 image" in [metric.label.split(" :")[0] for metric in app.metric]


def test_regenerating_and_editing_keep_the_images(open_page, vision):
    app = ask(attach(open_page(), cat_png=png()))
    button(app, "Regenerate").click().run()
    next(each for each in app.text_area if each.label == "Prompt").set_value("Which animal?")
    button(app, "Replace and send").click().run()
    first, again, edited = vision.meter.plans
    assert again.images == edited.images == first.images != ()
    assert edited.prompt == "Which animal?"


def test_a_new_conversation_clears_the_tray(open_page):
    app = open_page()
    attach(app, cat_png=png()).run()
    button(app, "New conversation").click().run()
    assert attachments(app) == ()


def test_what_the_model_is_given_is_said_before_and_after(open_page, vision):
    vision.lanes = (local_lane(vision), BLIND)
    app = open_page()
    attach(app, cat_png=png()).run()
    assert "336 × 336 px: 576 tokens, leaving 3,520 of 4,096" in texts(app)
    ask(app)
    assert "1 image, 336 × 336 px: 576 tokens" in texts(app)
    assert vision.manager.ensured == ["llava"]


def test_lanes_that_see_an_image_at_different_sizes_are_flagged(open_page, vision):
    other = local_lane(vision, name="intern", model="intern", config=INTERNVL, files=INTERNVL_FILES)
    vision.lanes = (local_lane(vision), other)
    app = ask(attach(open_page(), cat_png=png()))
    (flagged,) = [caption.value for caption in app.caption if "Differs between lanes" in caption.value]
    assert "images as the model sees them: 576 tokens at 336 × 336 px (llava)" in flagged.replace("\\", "")
    assert "258 tokens at 448 × 448 px (intern)" in flagged


def test_images_that_do_not_fit_are_refused_before_sending(open_page, vision):
    vision.lanes = (local_lane(vision),)
    app = open_page()
    for number in range(8):
        app.chat_input[0].upload(f"{number}.png", png(side_px=40 + number), "image/png")
    ask(app)
    assert vision.meter.plans == []
    assert "4,608" in app.error[0].value
    assert "4,096" in app.error[0].value
    assert len(attachments(app)) == 8


def test_a_lane_that_became_text_only_is_refused_before_sending(open_page, vision):
    app = open_page()
    vision.lanes = (replace(SEES, endpoint=BLIND.endpoint), ALSO)
    app.session_state["vision_lanes"] = ["sees"]
    attach(app, cat_png=png())
    ask(app)
    assert vision.meter.plans == []
    assert "can't see images" in app.error[0].value


def test_an_image_whose_file_is_gone_leaves_the_rest_usable(open_page, vision):
    gone = StoredImage(
        sha256="ab" * 32, media_type="image/png", width_px=9, height_px=9, size_bytes=9, name="x"
    )
    stored_turn(vision, images=(gone,))
    app = open_page(conversation="c1")
    assert "x: the file is missing" in texts(app)
    assert "A stored answer." in texts(app)


def test_each_page_lists_its_own_conversations(open_page, vision):
    image = vision.image_store.put(sanitise(png(), name="a.png"))
    stored_turn(vision, conversation_id="seen", prompt="With an image", images=(image,))
    stored_turn(vision, conversation_id="said", prompt="Words only")
    app = open_page()
    labels = [b.label for b in app.button]
    assert "With an image" in labels
    assert "Words only" not in labels
    app.switch_page("pages/chat.py").run()
    labels = [b.label for b in app.button]
    assert "Words only" in labels
    assert "With an image" not in labels


def test_a_conversation_with_images_moves_from_the_chat_to_the_vision_page(vision, new_app):
    image = vision.image_store.put(sanitise(png(), name="a.png"))
    stored_turn(vision, conversation_id="seen", images=(image,))
    app = new_app(conversation="seen").run()
    assert not app.exception
    assert "A stored answer." in texts(app)
    assert app.query_params["conversation"] in ("seen", ["seen"])
    assert app.pills(key="vision_lanes").value == ["sees"]
    assert "chat_state" in app.session_state
    assert app.session_state["chat_state"].conversation_id != "seen"


def test_the_demo_models_limits_are_said_and_plainer_for_photographs(open_page, vision):
    vision.lanes = (local_lane(vision, name="llava-hf", model=VISION_DEMO_NAME),)
    app = open_page()
    assert "understands only simple drawn scenes" in texts(app)
    assert "answers about photographs are meaningless" not in texts(app)
    attach(app, photo_jpg=jpeg()).run()
    assert "answers about photographs are meaningless" in texts(app)


def test_without_the_demo_lane_nothing_is_said_of_its_limits(open_page):
    assert "only simple drawn scenes" not in texts(open_page())


@pytest.fixture
def unprepared(vision, monkeypatch):
    """The demo lane without its model; `prepared` may become True."""
    model = ModelSpec(name=VISION_DEMO_NAME, checkpoint=str(vision.settings.models_dir / VISION_DEMO_NAME))
    vision.lanes = (LaneSpec(name="llava-hf", kind=EngineKind.TRANSFORMERS, model=model), ALSO)
    things = SimpleNamespace(prepared=False, started=[])
    monkeypatch.setattr(chat_images.demo_models, "is_vision_prepared", lambda settings: things.prepared)
    monkeypatch.setattr(chat_images.models_job, "start_demos", things.started.append)
    return things


def test_the_demo_model_is_prepared_on_request(open_page, vision, unprepared):
    app = open_page()
    assert app.pills(key="vision_lanes").value == ["llava-hf", "also"]
    button(app, "Prepare the demo model").click().run()
    assert unprepared.started == [vision.settings]
    unprepared.prepared = True
    app.run()
    assert "Prepare the demo model" not in [b.label for b in app.button]


def test_preparing_shows_how_far_it_is_and_what_went_wrong(open_page, vision, unprepared):
    spec = JobSpec(
        kind=models_job.PREPARING_DEMOS, title="Demo vision model", worker="none", arguments={}, python="none"
    )
    folder = JobFolder(vision.settings.home / "jobs" / spec.id)
    folder.create(spec)
    app = open_page()
    assert "Prepare the demo model" not in [b.label for b in app.button]
    assert len(app.get("progress")) == 1
    error = ErrorInfo("shipped-files-missing", "The trained part is missing", "Get it back.")
    folder.write(JobRecord(state=JobState.FAILED, error=error))
    app.run()
    assert "The trained part is missing" in texts(app)
    assert "Prepare the demo model" in [b.label for b in app.button]


def test_without_the_demo_lane_picked_nothing_needs_preparing(open_page, unprepared):
    app = open_page()
    app.pills(key="vision_lanes").set_value(["also"]).run()
    assert "Prepare the demo model" not in [b.label for b in app.button]


def test_engines_that_do_not_run_can_be_started_beforehand(open_page, vision):
    vision.lanes = (local_lane(vision),)
    vision.manager.states["llava"] = EngineState.STOPPED
    app = open_page()
    button(app, "Start now").click().run()
    assert vision.manager.restarted == ["llava"]


@pytest.fixture
def started(vision, monkeypatch):
    """The plans that the page started as quizzes."""
    plans = []
    monkeypatch.setattr(quiz, "start_quiz", lambda settings, plan: plans.append(plan))
    return plans


@pytest.fixture
def open_quiz(open_page):
    def open_section(set_name=None):
        app = open_page()
        app.session_state["vision_section"] = ":material/quiz: Quiz"
        app.run()
        if set_name:
            app.segmented_control(key="vision_quiz_set").set_value(set_name).run()
        assert not app.exception
        return app

    return open_section


def test_a_gallery_set_is_asked_of_the_picked_lanes(open_quiz, started, vision):
    app = open_quiz("photos")
    button(app, "Ask all").click().run()
    (plan,) = started
    total = sum(len(p.questions) for p in gallery() if p.kind is GalleryKind.PHOTO)
    assert len(plan.questions) == min(24, total)
    assert [lane.name for lane in plan.lanes] == ["sees", "also"]
    assert all(question.answers for question in plan.questions)
    assert vision.image_store.read(plan.questions[0].image)
    assert len(app.chat_input) == 0


def test_one_question_needs_an_image_and_goes_to_all_of_them(open_quiz, started):
    app = open_quiz("question")
    app.text_input[0].set_value("How many?")
    button(app, "Ask all").click().run()
    assert started == []
    assert "No image is selected" in app.error[0].value
    app.text_input[0].set_value("How many?")
    app.text_input[1].set_value("3, three")
    app.multiselect[0].set_value([image.title for image in gallery()][:2])
    app.get("file_uploader")[0].upload("own.png", png(), "image/png")
    button(app, "Ask all").click().run()
    (plan,) = started
    assert len(plan.questions) == 3
    assert {question.answers for question in plan.questions} == {("3", "three")}
    assert plan.questions[-1].image.name == "own.png"


def test_no_lane_picked_is_said(open_quiz, started):
    app = open_quiz("photos")
    app.pills(key="vision_lanes").set_value([]).run()
    button(app, "Ask all").click().run()
    assert started == []
    assert "No lane is selected" in app.error[0].value


@pytest.fixture
def finished_quiz(vision):
    """A quiz of three questions to two lanes, as a job that has ended."""
    image = vision.image_store.put(sanitise(png(), name="a.png"))
    questions = tuple(
        QuizQuestion(image=image, question=f"Colour {number}?", answers=("red",)) for number in range(3)
    )
    plan = QuizPlan(title="Colours", lanes=(SEES, ALSO), questions=questions, sampling=Sampling())
    said = [("Red.", "red"), ("blue", "It is red"), ("red", None)]
    answers = []
    for place, row in enumerate(said):
        turn = planned_record(plan.turn(place))
        records = tuple(
            page_fakes.finished(request, text)
            if text
            else page_fakes.failed(request, ErrorInfo("engine-crashed", "The engine died"))
            for request, text in zip(turn.requests, row, strict=True)
        )
        answers.append(QuizAnswer(question=place, records=records))
    save(vision.settings, QuizRun(plan=plan, answers=tuple(answers)))
    spec = JobSpec(id=plan.id, kind=JOB_KIND, title=plan.title, worker="none", arguments={}, python="none")
    folder = JobFolder(vision.settings.home / "jobs" / plan.id)
    folder.create(spec)
    folder.write(JobRecord(state=JobState.DONE))
    return plan


def test_results_count_right_wrong_and_no_answer_and_show_each_question(open_quiz, finished_quiz):
    app = open_quiz()
    table = app.table[0].value
    assert list(table["Correct"]) == ["**67%** (2 of 3)", "**100%** (2 of 2)"]
    assert list(table["No answer"]) == ["0", "1"]
    assert list(table["TTFT p50"]) == ["50.0 ms", "50.0 ms"]
    assert len(app.get("plotly_chart")) == 2
    shown = texts(app)
    for number in range(3):
        assert f"Colour {number}?" in shown
    assert shown.count("wrong]") == 1
    assert "The engine died" in shown
    app.segmented_control(key=f"quiz_filter_{finished_quiz.id}").set_value("wrong").run()
    assert "Colour 1?" in texts(app)
    assert "Colour 0?" not in texts(app)
