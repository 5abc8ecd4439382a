"""Images, lanes and runs of quizzes for the tests."""

from io import BytesIO

from PIL import Image

from core.domain.conversation import Sampling, StoredImage
from core.domain.specs import EndpointSpec, EngineKind, LaneSpec
from core.domain.timing import Timing
from core.domain.turns import ErrorInfo, FinishReason, Phase, RequestRecord
from core.quality.image_quiz import QuizAnswer, QuizPlan, QuizQuestion, QuizRun

IMAGE = StoredImage(sha256="ab" * 32, media_type="image/png", width_px=64, height_px=48, size_bytes=900)


def lane(name: str, url: str = "http://gpu-host:23333/v1", model: str | None = None, **changes) -> LaneSpec:
    endpoint = EndpointSpec(url=url, model=model, **{"vision": True, **changes})
    return LaneSpec(name=name, kind=EngineKind.ENDPOINT, endpoint=endpoint)


def question(text: str, *answers: str, image: StoredImage = IMAGE) -> QuizQuestion:
    return QuizQuestion(image=image, question=text, answers=answers)


def plan(*questions: QuizQuestion, lanes: tuple[LaneSpec, ...] = (), **changes) -> QuizPlan:
    return QuizPlan(
        title="Test",
        lanes=lanes or (lane("one"), lane("two")),
        questions=questions,
        sampling=Sampling(max_tokens=16),
        **changes,
    )


def record(spec: LaneSpec, text: str = "", *, ttft_ms: int = 10, failed: bool = False) -> RequestRecord:
    """A finished request whose text came in two chunks, the second 20 ms after the first."""
    return RequestRecord(
        id=f"{spec.name}-{text}",
        turn_id="t",
        lane=spec,
        messages=(),
        phase=Phase.DONE,
        text=text,
        finish_reason=FinishReason.ERROR if failed else FinishReason.STOP,
        error=ErrorInfo("engine-crashed", "The engine died") if failed else None,
        timing=Timing(
            sent_ns=0,
            chunk_ns=(ttft_ms * 1_000_000, (ttft_ms + 20) * 1_000_000),
            content_chars=(1, max(0, len(text) - 1)),
            output_tokens=2,
        ),
    )


def run(quiz: QuizPlan, *rows: tuple[RequestRecord, ...]) -> QuizRun:
    answers = tuple(QuizAnswer(question=place, records=row) for place, row in enumerate(rows))
    return QuizRun(plan=quiz, answers=answers)


def png(color: str = "red", side_px: int = 32) -> bytes:
    file = BytesIO()
    Image.new("RGB", (side_px, side_px), color).save(file, "PNG")
    return file.getvalue()
