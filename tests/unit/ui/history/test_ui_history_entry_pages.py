import json
from dataclasses import replace

from core.domain.conversation import Message, Role, Sampling, StoredImage
from core.domain.turns import Mode, RequestRecord, TurnRecord, utc_now
from core.ui.chat.session import CHAT, VISION
from core.ui.history.entry_pages import page_of, turn_json
from tests.unit.bench.bench_samples import HF

IMAGE = StoredImage(sha256="0" * 64, media_type="image/png", width_px=8, height_px=8, size_bytes=99)


def a_turn(*messages):
    return TurnRecord(
        id="t1",
        conversation_id="talk",
        created_at=utc_now(),
        prompt="What is it?",
        system_prompt="",
        mode=Mode.TOGETHER,
        sampling=Sampling(),
        requests=(RequestRecord(id="r1", turn_id="t1", lane=HF, messages=messages),),
    )


def test_a_conversation_with_images_goes_on_where_they_are_shown():
    question = Message(Role.USER, "What is it?")
    assert page_of(a_turn(question)) is CHAT
    earlier = replace(question, images=(IMAGE,))
    assert page_of(a_turn(earlier, Message(Role.ASSISTANT, "A cat."), question)) is VISION


def test_the_export_has_a_version_and_every_text():
    found = json.loads(turn_json(a_turn(Message(Role.USER, "What is it?"))))
    assert found["schema_version"] == 1
    assert found["turn"]["requests"][0]["messages"][0]["content"] == "What is it?"
