"""Images on their way to the server: as data URLs, encoded before the clock starts, refused in time."""

import asyncio
import base64
import io
from dataclasses import replace

import pytest
from PIL import Image

from core.chat_api.dialects import chat_body
from core.domain.conversation import Exchange, StoredImage, messages_for
from core.domain.specs import Dialect, EngineKind, EngineSettings, LaneSpec, ModelSpec
from core.domain.turns import FinishReason, Mode, RequestPlan
from core.errors import StoreError
from core.images.sanitise import sanitise
from core.images.store import ImageStore
from core.meter.link import MeterLink
from core.meter.turns import run_turn
from core.settings import Settings
from core.store.turns import Store
from tests.unit.meter.meter_samples import GREEDY, model, no_lease, remote_lane, resolve_remote, turn_plan
from tests.vision_checkpoints import LLAVA, LLAVA_FILES, TEXT_ONLY, write_checkpoint

CAT, DOG = (
    StoredImage(
        sha256=char * 64, media_type="image/png", width_px=640, height_px=480, size_bytes=3, name="../../x"
    )
    for char in "cd"
)


def url_of(image):
    return f"data:image/png;base64,{base64.b64encode(image.sha256[:3].encode()).decode()}"


def run(plan, **more):
    async def main():
        return await run_turn(
            plan,
            lease=no_lease,
            on_update=lambda update: None,
            cancel=asyncio.Event(),
            **{"resolve": resolve_remote, "image_url": url_of, **more},
        )

    return asyncio.run(main())


def plan_with(images, *lanes, earlier=(), **more):
    messages = messages_for("What is it?", earlier=earlier, images=images)
    plan = turn_plan(*lanes, **more)
    requests = tuple(RequestPlan(lane=lane, messages=messages) for lane in lanes)
    return replace(plan, requests=requests, images=images)


def local_lane(checkpoint, **settings):
    return LaneSpec(
        name="local",
        kind=EngineKind.PYTORCH,
        model=ModelSpec(name="vicuna", checkpoint=checkpoint),
        settings=EngineSettings(**settings),
    )


@pytest.mark.parametrize("dialect", Dialect)
def test_images_go_as_data_urls_before_the_text(server, dialect):
    lane = remote_lane("a", server.url, model(chunks=2, dialect=dialect), dialect)
    (record,) = run(plan_with((CAT, DOG), lane))
    assert record.error is None
    (message,) = server.seen[0].body["messages"]
    assert message == {
        "role": "user",
        "content": [
            {"type": "image_url", "image_url": {"url": "data:image/png;base64,Y2Nj"}},
            {"type": "image_url", "image_url": {"url": "data:image/png;base64,ZGRk"}},
            {"type": "text", "text": "What is it?"},
        ],
    }


def test_the_history_repeats_its_images_and_other_messages_stay_plain(server):
    earlier = [Exchange("Look.", "A cat.", (CAT,))]
    lane = remote_lane("a", server.url, model(chunks=2))
    (record,) = run(plan_with((), lane, earlier=earlier))
    first, answer, question = server.seen[0].body["messages"]
    assert first["content"][0]["image_url"]["url"] == url_of(CAT)
    assert first["content"][1] == {"type": "text", "text": "Look."}
    assert answer == {"role": "assistant", "content": "A cat."}
    assert question == {"role": "user", "content": "What is it?"}
    assert record.image_count == 1


def test_an_image_without_a_question_still_has_a_text_part():
    messages = messages_for("", images=(CAT,))
    body = chat_body(Dialect.LMDEPLOY, "m", messages, GREEDY, {CAT.sha256: "data:,"})
    assert body["messages"][0]["content"][-1] == {"type": "text", "text": ""}


def test_nothing_but_the_data_url_leaves_the_machine(server):
    run(plan_with((CAT,), remote_lane("a", server.url, model(chunks=1))))
    assert ".." not in str(server.seen[0].body)


def test_megabytes_arrive_whole_and_count_from_the_sending(server):
    big = "data:image/png;base64," + "A" * 6_000_000
    lanes = [remote_lane(f"lane{n}", server.url, model(chunks=2, first_chunk_s=0.1)) for n in range(2)]
    records = run(plan_with((CAT,), *lanes, mode=Mode.TOGETHER), image_url=lambda image: big)
    assert [record.finish_reason for record in records] == [FinishReason.STOP] * 2
    for seen, record in zip(server.seen, records, strict=True):
        assert seen.body["messages"][0]["content"][0]["image_url"]["url"] == big
        assert record.ttft_s >= 0.1


def test_images_are_read_before_any_lane_is_sent(server):
    order = []

    def read(image):
        order.append(len(server.seen))
        return url_of(image)

    lanes = [remote_lane(f"lane{n}", server.url, model(chunks=1)) for n in range(3)]
    run(plan_with((CAT,), *lanes, mode=Mode.TOGETHER), image_url=read)
    assert order == [0, 0, 0]


def test_a_lost_file_is_that_lanes_error_and_the_others_go_on(server):
    def read(image):
        if image == DOG:
            raise StoreError("The image is gone.", hint="Add it again.", code="image-missing")
        return url_of(image)

    lanes = [remote_lane(name, server.url, model(chunks=1)) for name in ("old", "new")]
    plan = plan_with((CAT,), *lanes)
    lost = messages_for("What is it?", earlier=[Exchange("Look.", "A dog.", (DOG,))], images=(CAT,))
    plan = replace(plan, requests=(replace(plan.requests[0], messages=lost), plan.requests[1]))
    old, new = run(plan, image_url=read)
    assert (old.error.code, old.timing) == ("image-missing", None)
    assert new.finish_reason is FinishReason.STOP
    assert len(server.seen) == 1


def resolve_never(lane):
    raise AssertionError("nothing may be started or asked for a lane that is refused")


def test_a_text_only_lane_is_refused_before_anything_is_sent(tmp_path):
    lane = local_lane(write_checkpoint(tmp_path / "llama", TEXT_ONLY))
    (record,) = run(plan_with((CAT,), lane), resolve=resolve_never)
    assert (record.error.code, record.finish_reason) == ("text-only", FinishReason.ERROR)
    assert "vicuna is a text-only model" in record.error.message
    assert record.error.hint


def test_images_that_fill_the_context_are_refused_before_anything_is_sent(tmp_path):
    lane = local_lane(write_checkpoint(tmp_path / "llava", LLAVA, LLAVA_FILES), session_len=1024)
    (record,) = run(plan_with((CAT, DOG), lane), resolve=resolve_never)
    assert record.error.code == "images-too-large"
    assert "1,152 tokens" in record.error.message


def test_the_meters_process_reads_the_shelf_of_its_home(server, tmp_path):
    settings = Settings(
        home=tmp_path, lanes_file=tmp_path / "lanes.toml", database_url=f"sqlite:///{tmp_path / 'test.db'}"
    )
    buffer = io.BytesIO()
    Image.new("RGB", (40, 30), "red").save(buffer, "PNG")
    checked = sanitise(buffer.getvalue(), name="red.png")
    image = ImageStore(settings.images_dir).put(checked)
    plan = plan_with((image,), remote_lane("a", server.url, model(chunks=1)))
    link = MeterLink(settings)
    try:
        link.start(plan)
        *_, last = link.follow(plan.id, plan.requests[0].id)
    finally:
        link.close()
    assert last.record.error is None
    url = server.seen[0].body["messages"][0]["content"][0]["image_url"]["url"]
    assert base64.b64decode(url.removeprefix("data:image/png;base64,")) == checked.data
    # The store keeps what describes the image, and needs no file for it.
    for file in settings.images_dir.rglob("*"):
        if file.is_file():
            file.unlink()
    store = Store(settings.database_url)
    (turn,) = store.conversation(plan.conversation_id)
    store.close()
    assert turn.images == turn.requests[0].messages[-1].images == (image,)
