import pytest

from core.domain.conversation import Exchange, Message, Role, Sampling, StoredImage, messages_for
from core.errors import InputError

CAT, DOG = (
    StoredImage(sha256=char * 64, media_type="image/png", width_px=8, height_px=8, size_bytes=90)
    for char in "cd"
)


def test_first_prompt_alone():
    assert messages_for("Hi") == (Message(Role.USER, "Hi"),)


def test_a_lane_sees_its_own_history_in_order():
    messages = messages_for("Third?", system="Be brief.", earlier=[Exchange("One?", "1")])
    assert [(m.role, m.content) for m in messages] == [
        ("system", "Be brief."),
        ("user", "One?"),
        ("assistant", "1"),
        ("user", "Third?"),
    ]


def test_a_turn_the_lane_did_not_answer_is_left_out():
    assert messages_for("B", earlier=[Exchange("A", "")]) == (Message(Role.USER, "B"),)


def test_a_blank_system_prompt_is_none():
    assert messages_for("A", system="  \n") == (Message(Role.USER, "A"),)


def test_images_of_earlier_turns_are_sent_again_with_their_prompts():
    earlier = [Exchange("What is it?", "A cat.", (CAT,)), Exchange("And now?", "", (CAT, DOG))]
    assert messages_for("Which is bigger?", earlier=earlier, images=(DOG,)) == (
        Message(Role.USER, "What is it?", (CAT,)),
        Message(Role.ASSISTANT, "A cat."),
        Message(Role.USER, "Which is bigger?", (DOG,)),
    )


def test_the_default_is_greedy():
    assert Sampling().greedy
    assert not Sampling(temperature=0.7).greedy


@pytest.mark.parametrize(
    "wrong",
    [
        {"temperature": -0.1},
        {"temperature": 2.1},
        {"temperature": float("nan")},
        {"top_p": 0},
        {"top_p": 1.01},
        {"top_k": -1},
        {"repetition_penalty": 0.1},
        {"max_tokens": 0},
    ],
)
def test_values_no_engine_accepts_are_refused_by_name(wrong):
    with pytest.raises(InputError, match=next(iter(wrong))) as caught:
        Sampling(**wrong)
    assert caught.value.hint
