from core.domain.conversation import Exchange, Message, Role, StoredImage, messages_for

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
